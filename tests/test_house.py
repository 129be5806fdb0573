"""The house: which way imports run, how long files and folders are, and what only one place may do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nnunetv2_dsvm

PACKAGE = Path(nnunetv2_dsvm.__file__).parent
# From the roof to the ground: a room imports from lower rows only.
ROWS = [
    ["cli"],
    ["cluster"],
    ["quickstart", "benchmark", "diagnostics", "dicom"],
    ["reporting"],
    ["models", "evaluation", "datasets"],
    ["training"],
    ["planning"],
    ["distillation"],
    ["architecture"],
    ["cuda_graphs"],
    ["ops"],
    ["nnunet"],
    ["images"],
    ["files", "host"],
    ["autoregister", "errors", "version"],
]
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}


def modules() -> Iterator[tuple[str, Path]]:
    """Names without the package's own, and files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",) and "discovery" not in parts:
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it, also for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, inside = name.partition(".")
            if package == PACKAGE.name:
                while inside and inside not in MODULES:
                    inside = inside.rpartition(".")[0]
                if inside:
                    found.add(inside)
    return found


GRAPH = {name: imports(path) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_its_row():
    assert {room(name) for name in MODULES} == set(ROW_OF)


def test_arrows_run_down():
    up = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in sorted(others)
        if room(other) != room(name) and ROW_OF[room(other)] <= ROW_OF[room(name)]
    ]
    assert not up


def test_no_circle():
    rest = dict(GRAPH)
    while leaves := [name for name, others in rest.items() if not others & rest.keys()]:
        for name in leaves:
            del rest[name]
    assert not rest, "these import each other, or what does"


@pytest.mark.parametrize(
    ("part", "unknown"),
    [
        ("ops", ("nnunetv2", "dynamic_network_architectures", "batchgenerators")),
        ("architecture", ("nnunetv2", "dynamic_network_architectures", "batchgenerators")),
        ("distillation", ("nnunetv2", "dynamic_network_architectures", "batchgenerators")),
    ],
)
def test_networks_know_no_framework(part, unknown):
    for name, path in MODULES.items():
        if room(name) != part:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
            assert not any(imported.partition(".")[0] in unknown for imported in names), name


def test_ops_import_nothing_of_the_package():
    assert not {
        other for name, others in GRAPH.items() if room(name) == "ops" for other in others if room(other) != "ops"
    }


def test_folders_and_files_are_small():
    folders: dict[Path, int] = {}
    for path in MODULES.values():
        folders[path.parent] = folders.get(path.parent, 0) + (path.name != "__init__.py")
    assert not {str(folder): count for folder, count in folders.items() if count > 14}
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: count for name, count in lines.items() if count > 250}


def test_nobody_reaches_inside_another_module():
    reached = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
                reached += [
                    f"{name}: {alias.name}"
                    for alias in node.names
                    if alias.name.startswith("_") and not alias.name.endswith("__")
                ]
    assert not reached


def test_every_module_says_what_it_is_for():
    assert not [name for name, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]


def test_the_map_names_every_room():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [name for name in ROW_OF if name not in text]
