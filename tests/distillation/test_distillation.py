"""L_proj and L_prog against the method's formulas, written once more in NumPy, and what they do to gradients."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.special import log_softmax

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.distillation.features import ChannelPooling

DIMS = [6, 8, 10]
SIZES = {
    "halving": [(8, 12), (4, 6), (2, 3)],
    "odd": [(9, 7), (5, 4), (3, 2)],
    "one-pixel": [(3, 3), (2, 1), (1, 1)],
}


def make_features(channels, sizes, seed=0, dtype=torch.float64, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, c, *size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for c, size in zip(channels, sizes, strict=True)
    ]


# --- the formulas, in NumPy -------------------------------------------------------------------------------------------


def over_channels(layer: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    return pooled_channels(x, layer.channels) if isinstance(layer, ChannelPooling) else conv1x1(layer, x)


def pooled_channels(x: np.ndarray, channels: int) -> np.ndarray:
    """Mean over channels floor(i * m / n) up to ceil((i + 1) * m / n)."""
    m = x.shape[1]
    return np.stack([x[:, i * m // channels : -(-(i + 1) * m // channels)].mean(1) for i in range(channels)], axis=1)


def conv1x1(layer: torch.nn.Conv2d, x: np.ndarray) -> np.ndarray:
    weight, bias = layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()
    return np.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None]


def bilinear(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixel centres at (i + 1/2) * scale - 1/2, clamped to the map: align_corners=False."""
    grids = [np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1) for n, m in zip(size, x.shape[2:], strict=True)]
    where = np.meshgrid(*grids, indexing="ij")
    maps = [[map_coordinates(channel, where, order=1, mode="nearest") for channel in image] for image in x]
    return np.array(maps)


def average_pool(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mean over rows floor(i * m / n) up to ceil((i + 1) * m / n): blocks of 2 x 2 where the size halves."""
    out = np.empty((*x.shape[:2], *size))
    for i, j in np.ndindex(*size):
        rows = slice(i * x.shape[2] // size[0], -(-(i + 1) * x.shape[2] // size[0]))
        columns = slice(j * x.shape[3] // size[1], -(-(j + 1) * x.shape[3] // size[1]))
        out[:, :, i, j] = x[:, :, rows, columns].mean(axis=(2, 3))
    return out


def distance(kind: str, student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    if kind == "mse":
        return np.mean((student - teacher) ** 2)
    log_s, log_t = log_softmax(student / temperature, axis=1), log_softmax(teacher / temperature, axis=1)
    return temperature**2 * np.mean(np.sum(np.exp(log_t) * (log_t - log_s), axis=1))


def projection_term(term, encoder, decoder, kind, temperature):
    teacher = decoder[0]
    size = teacher.shape[2:]
    students = [bilinear(over_channels(p, f), size) for p, f in zip(term.encoder_projections, encoder, strict=True)]
    students += [
        bilinear(over_channels(p, f), size) for p, f in zip(term.decoder_projections, decoder[1:], strict=True)
    ]
    return sum(distance(kind, s, teacher, temperature) for s in students) / (len(encoder) + len(decoder) - 1)


def progressive_term(term, encoder, decoder, kind, temperature):
    total = 0.0
    for level in range(2, len(encoder) + 1):  # l = 2..M, features counted from 1
        student, teacher = encoder[level - 2], encoder[level - 1]
        pooled = over_channels(term.encoder_projections[level - 2], average_pool(student, teacher.shape[2:]))
        total += distance(kind, pooled, teacher, temperature)
    for level in range(2, len(decoder) + 1):
        student, teacher = decoder[level - 1], decoder[level - 2]
        enlarged = over_channels(term.decoder_projections[level - 2], bilinear(student, teacher.shape[2:]))
        total += distance(kind, enlarged, teacher, temperature)
    return total / (len(encoder) + len(decoder) - 2)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_both_terms_follow_the_formulas(kind, sizes):
    distillation = DualSelfDistillation(DIMS, DIMS, distance=kind, temperature=2.0).double()
    encoder, decoder = make_features(DIMS, sizes, 1), make_features(DIMS, sizes, 2)
    values = distillation(encoder, decoder)
    arrays = [f.detach().numpy() for f in encoder], [f.detach().numpy() for f in decoder]
    terms = distillation.terms
    expected = {
        "projection": projection_term(terms["projection"], *arrays, kind, 2.0),
        "progressive": progressive_term(terms["progressive"], *arrays, kind, 2.0),
    }
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize("dims", [[4, 8, 16], DIMS], ids=["doubling", "any"])
def test_pooling_over_channels_follows_the_formulas_without_parameters(dims):
    distillation = DualSelfDistillation(dims, dims, projection="pooling").double()
    assert not list(distillation.parameters())
    encoder, decoder = make_features(dims, SIZES["halving"], 1), make_features(dims, SIZES["halving"], 2)
    values = distillation(encoder, decoder)
    arrays = [f.detach().numpy() for f in encoder], [f.detach().numpy() for f in decoder]
    for name, formula in {"projection": projection_term, "progressive": progressive_term}.items():
        expected = formula(distillation.terms[name], *arrays, "mse", 1.0)
        assert values[name].item() == pytest.approx(expected, rel=1e-10), name


def test_encoder_and_decoder_may_differ_in_depth_and_channels():
    encoder = make_features([4, 5, 6, 7], [(16, 16), (8, 8), (4, 4), (2, 2)], 1)
    decoder = make_features([9, 3], [(16, 16), (8, 8)], 2)
    distillation = DualSelfDistillation([4, 5, 6, 7], [9, 3]).double()
    values = distillation(encoder, decoder)
    arrays = [f.detach().numpy() for f in encoder], [f.detach().numpy() for f in decoder]
    for name, formula in {"projection": projection_term, "progressive": progressive_term}.items():
        expected = formula(distillation.terms[name], *arrays, "mse", 1.0)
        assert values[name].item() == pytest.approx(expected, rel=1e-10)


def test_channels_last_features_give_the_same():
    encoder, decoder = make_features(DIMS, SIZES["halving"], 1), make_features(DIMS, SIZES["halving"], 2)
    distillation = DualSelfDistillation(DIMS, DIMS).double()
    values = distillation(encoder, decoder)
    sides = [[f.contiguous(memory_format=torch.channels_last) for f in side] for side in (encoder, decoder)]
    for name, value in distillation(*sides).items():
        torch.testing.assert_close(value, values[name], rtol=1e-12, atol=0)


def test_one_stage_has_no_next_stage_to_follow():
    encoder, decoder = make_features([4], [(5, 5)], 1), make_features([4], [(5, 5)], 2)
    values = DualSelfDistillation([4], [4]).double()(encoder, decoder)
    assert values["progressive"].item() == 0.0
    assert values["projection"].item() > 0.0


@pytest.mark.parametrize("number_of_copies", [1, 3])
def test_each_term_is_a_mean_over_its_pairs(number_of_copies):
    """Stages that are all alike, under one projection, give one value however many there are."""
    dims, feature = [4] * (1 + number_of_copies), make_features([4], [(3, 3)], 5)[0]
    teacher = make_features([4], [(3, 3)], 6)[0]
    term = DualSelfDistillation(dims, [4], terms=["projection"]).double()
    for projection in term.terms["projection"].encoder_projections:
        torch.nn.init.dirac_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    value = term([feature] * len(dims), [teacher])["projection"]
    assert value.item() == pytest.approx(torch.nn.functional.mse_loss(feature, teacher).item(), rel=1e-12)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardise", [False, True], ids=["plain", "standardised"])
@pytest.mark.parametrize("kind", ["mse", "kl"])
@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_only_students_get_a_gradient(side, level, kind, standardise):
    """Stage by stage: f^d_1 only teaches, in both terms, and f^e_M only teaches in the progressive one."""
    encoder, decoder = make_features(DIMS, SIZES["halving"], 1), make_features(DIMS, SIZES["halving"], 2)
    for name in ("projection", "progressive"):
        term = DualSelfDistillation(DIMS, DIMS, terms=[name], distance=kind, standardise=standardise).double()
        studied = {"encoder": encoder, "decoder": decoder}[side][level - 1]
        (gradient,) = torch.autograd.grad(term(encoder, decoder)[name], studied, allow_unused=True)
        students = {
            ("projection", "encoder"): {1, 2, 3},
            ("projection", "decoder"): {2, 3},
            ("progressive", "encoder"): {1, 2},
            ("progressive", "decoder"): {2, 3},
        }[name, side]
        if level not in students:
            assert gradient is None
        else:
            assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_a_stage_between_gets_its_gradient_as_a_student_only(kind):
    """f^e_2 teaches f^e_1 and learns from f^e_3, f^d_2 teaches f^d_3 and learns from f^d_1: only learning counts."""
    term = DualSelfDistillation(DIMS, DIMS, terms=["progressive"], distance=kind).double()
    encoder, decoder = make_features(DIMS, SIZES["halving"], 1), make_features(DIMS, SIZES["halving"], 2)
    value = term(encoder, decoder)["progressive"]
    gradients = torch.autograd.grad(value, [encoder[1], decoder[1]])

    def value_as_student(encoder_student, decoder_student):
        """The two pairs in which the stages between are students, alone."""
        module = term.terms["progressive"]
        pooled = torch.nn.functional.avg_pool2d(encoder_student, 2)
        enlarged = torch.nn.functional.interpolate(decoder_student, scale_factor=2, mode="bilinear")
        pairs = [
            module.distance(module.encoder_projections[1](pooled), encoder[2]),
            module.distance(module.decoder_projections[0](enlarged), decoder[0]),
        ]
        return sum(pairs) / 4

    expected = torch.autograd.grad(value_as_student(encoder[1], decoder[1]), [encoder[1], decoder[1]])
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_without_the_stop_gradient_the_values_stay_and_the_teacher_learns_too(kind):
    """Moved by a little against its gradient, f^d_1, which else only teaches, comes nearer to its students."""
    encoder, decoder = make_features(DIMS, SIZES["halving"], 1), make_features(DIMS, SIZES["halving"], 2)
    stopped = DualSelfDistillation(DIMS, DIMS, distance=kind).double()
    free = DualSelfDistillation(DIMS, DIMS, distance=kind, stop_gradient=False).double()
    free.load_state_dict(stopped.state_dict())
    before = sum(free(encoder, decoder).values())
    torch.testing.assert_close(before, sum(stopped(encoder, decoder).values()), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(before, decoder[0])
    step = 1e-4
    moved = sum(free(encoder, [decoder[0] - step * gradient, *decoder[1:]]).values())
    assert (before - moved).item() == pytest.approx(step * gradient.square().sum().item(), rel=1e-3)


def test_every_projection_learns():
    distillation = DualSelfDistillation(DIMS, DIMS).double()
    encoder, decoder = make_features(DIMS, SIZES["halving"], 1), make_features(DIMS, SIZES["halving"], 2)
    sum(distillation(encoder, decoder).values()).backward()
    unused = [name for name, p in distillation.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not unused


# --- number formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_terms_of_16_bit_features_are_those_of_fp32(kind, dtype, autocast):
    encoder, decoder = make_features(DIMS, SIZES["halving"], 1, dtype), make_features(DIMS, SIZES["halving"], 2, dtype)
    distillation = DualSelfDistillation(DIMS, DIMS, distance=kind)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        values = distillation(encoder, decoder)
        assert torch.is_autocast_enabled("cpu") == autocast
    expected = distillation([f.float() for f in encoder], [f.float() for f in decoder])
    for name, value in values.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=0)
    sum(values.values()).backward()
    assert all(f.grad.dtype == dtype and f.grad.isfinite().all() for f in (*encoder, *decoder[1:]))


@pytest.mark.parametrize("options", [{"projection": "pooling"}, {"stop_gradient": False}], ids=str)
def test_options_in_bf16_are_those_of_fp32(options):
    dtype = torch.bfloat16
    encoder, decoder = make_features(DIMS, SIZES["halving"], 1, dtype), make_features(DIMS, SIZES["halving"], 2, dtype)
    distillation = DualSelfDistillation(DIMS, DIMS, **options)
    with torch.autocast("cpu", dtype=dtype):
        values = distillation(encoder, decoder)
    expected = distillation([f.float() for f in encoder], [f.float() for f in decoder])
    for name, value in values.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_terms_are_finite_where_fp16_would_overflow(kind):
    """Features of 2000: fp16 ends at 65504, their squared differences reach 16 million."""
    encoder = [2000 * f.detach().sign().half() for f in make_features(DIMS, SIZES["halving"], 1)]
    decoder = [2000 * f.detach().sign().half() for f in make_features(DIMS, SIZES["halving"], 2)]
    with torch.autocast("cpu", dtype=torch.float16):
        values = DualSelfDistillation(DIMS, DIMS, distance=kind)(encoder, decoder)
    assert all(value.isfinite() and value > 1000 for value in values.values())


# --- the network ------------------------------------------------------------------------------------------------------


def test_vm_unets_features_fit():
    network = VMUNet(2, 3, dims=(8, 16, 32), encoder_depths=(1, 1, 1), decoder_depths=(1, 1, 1), d_state=2)
    network.return_features = True
    network.train()
    output = network(torch.randn(2, 2, 40, 24))
    distillation = DualSelfDistillation(network.encoder.output_channels, network.decoder.output_channels)
    values = distillation(output.encoder_features, output.decoder_features)
    sum(values.values()).backward()
    assert all(value.isfinite() for value in values.values())
    assert all(p.grad is not None for p in network.encoder.parameters())
    # f^d_1 teaches, so neither its own stage nor what follows it is reached.
    after = [network.decoder.stages[-1], network.decoder.final_expanding, network.decoder.seg_layers]
    assert all(p.grad is None for module in after for p in module.parameters())


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "named"),
    [
        (make_features([6, 8], SIZES["halving"][:2]), "encoder features"),
        (make_features([6, 8, 11], SIZES["halving"]), "11"),
        ([f[0] for f in make_features(DIMS, SIZES["halving"])], "2D maps"),
    ],
    ids=["too-few-stages", "other-channels", "no-batch-axis"],
)
def test_features_it_was_not_built_for_are_named(encoder, named):
    with pytest.raises(ValueError, match=named):
        DualSelfDistillation(DIMS, DIMS).double()(encoder, make_features(DIMS, SIZES["halving"]))


@pytest.mark.parametrize("terms", [[], ["global"], ["projection", "projection"], "projection"], ids=str)
def test_wrong_terms_are_refused(terms):
    with pytest.raises(ValueError, match="projection"):
        DualSelfDistillation(DIMS, DIMS, terms=terms)


def test_an_unknown_projection_is_refused():
    with pytest.raises(ValueError, match="'conv'.*convolution, pooling"):
        DualSelfDistillation(DIMS, DIMS, projection="conv")


def test_no_stages_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        DualSelfDistillation([], DIMS)


# --- ignored pixels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["mse", "kl"])
@pytest.mark.parametrize("dimension", [2, 3], ids=["rows", "columns"])
def test_ignored_pixels_teach_nothing_and_learn_nothing(distance, dimension):
    """The right (or lower) half of an image of 32 x 32 is ignored: its features change neither values nor gradients."""
    sizes = [(8, 8), (4, 4), (2, 2)]
    encoder, decoder = make_features(DIMS, sizes), make_features(DIMS, sizes, seed=1)
    distillation = DualSelfDistillation(DIMS, DIMS, distance=distance).double()
    mask = torch.ones(2, 1, 32, 32, dtype=torch.float64)
    mask.narrow(dimension, 16, 16).zero_()

    def values_and_gradients(encoder, decoder):
        terms = distillation(encoder, decoder, mask)
        inputs = [*encoder, *decoder, *distillation.parameters()]
        return terms, torch.autograd.grad(sum(terms.values()), inputs, materialize_grads=True)

    terms, gradients = values_and_gradients(encoder, decoder)
    # A bilinear resize from the neighbouring pixel reaches one pixel over the border, and no further.
    for gradient, size in zip(gradients[:6], [8, 4, 2] * 2, strict=True):
        far = size // 2 + 1
        assert not gradient.narrow(dimension, far, size - far).any()
        assert gradient.narrow(dimension, 0, size // 2).any() or gradient is gradients[3]  # f^d_1 only teaches

    def changed(features):
        out = [f.detach().clone() for f in features]
        for f in out:
            far = f.shape[dimension] // 2 + 1
            f.narrow(dimension, far, f.shape[dimension] - far).add_(7)
        return [f.requires_grad_() for f in out]

    again, gradients_again = values_and_gradients(changed(encoder), changed(decoder))
    for name in terms:
        assert again[name].item() == pytest.approx(terms[name].item(), rel=1e-12)
    for one, other in zip(gradients, gradients_again, strict=True):
        torch.testing.assert_close(one, other)


def test_a_mask_of_ones_changes_nothing_and_one_of_zeros_leaves_a_graph():
    encoder, decoder = make_features(DIMS, SIZES["halving"]), make_features(DIMS, SIZES["halving"], seed=1)
    distillation = DualSelfDistillation(DIMS, DIMS).double()
    mask = torch.ones(2, 1, 32, 48, dtype=torch.float64)
    plain, ones = distillation(encoder, decoder), distillation(encoder, decoder, mask)
    assert {n: v.item() for n, v in ones.items()} == pytest.approx({n: v.item() for n, v in plain.items()}, rel=1e-12)
    none = distillation(encoder, decoder, 0 * mask)
    assert [v.item() for v in none.values()] == [0, 0]
    sum(none.values()).backward()  # every parameter gets a gradient, as DDP demands of every rank
    assert all(p.grad is not None and not p.grad.any() for p in distillation.parameters())
