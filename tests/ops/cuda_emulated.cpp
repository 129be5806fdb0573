// Runs a kernel on a CPU against the plain loop in double; see test_nvrtc_emulated.py, which puts the emulation and the
// kernel's sources before this. Arguments: channels, intervals of a chunk, batch, tokens; the numbers of the grid, as a
// launch passes them; the raster index of each direction's tokens in turn. Status 1: a result is wrong.

int main(int, char** arguments) {
    const int D = atoi(arguments[1]), chunk_intervals = atoi(arguments[2]), batch = atoi(arguments[3]);
    const int L = atoi(arguments[4]), chunk = chunk_intervals * TOKENS, N = STATES, K = DIRECTIONS;
    const int columns = K * (D + 2 * N), rows = batch * L;
    Arguments p{};
    int grid_numbers = 2;
#if WALKS
    grid_numbers = sizeof(p.walks) / sizeof(int);
    for (int i = 0; i < grid_numbers; ++i) ((int*)p.walks)[i] = atoi(arguments[5 + i]);
#else
    p.height = atoi(arguments[5]), p.width = atoi(arguments[6]);
#endif
    std::vector<int> order(K * L);
    for (int i = 0; i < K * L; ++i) order[i] = atoi(arguments[5 + grid_numbers + i]);
    const int intervals = (L + TOKENS - 1) / TOKENS, chunks = (intervals + chunk_intervals - 1) / chunk_intervals;
    const int blocks = (D + WARPS * CHANNELS - 1) / (WARPS * CHANNELS);
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    auto drawn = [&](size_t size) {
        std::vector<u16> v(size);
        for (auto& element : v) element = HALF ? f16_bits(normal(random)) : bf16(normal(random));
        return v;
    };
    auto of_bf16 = [](u16 v) { return (double)__uint_as_float((u32)v << 16); };
    auto wide = [&](u16 v) { return HALF ? (double)f16(v) : of_bf16(v); };
    const auto x = drawn(rows * D), gy = drawn(rows * D);
    auto product = drawn(rows * columns);  // of a row: delta in fp16, or RAW dt, then b and c of each direction
    for (int i = 0; i < rows * columns; ++i)
        if (i % columns < K * D && !RAW) product[i] = f16_bits(0.002f + 0.05f * fabsf(normal(random)));
    std::vector<float> bias(K * D);
    for (float& v : bias) v = -3.5f + normal(random);
#ifdef OF_GRADIENT  // the first channels forget their states before a chunk ends
    for (int i = 0; i < K * D; ++i)
        if (i % D < CHANNELS) bias[i] += 2.5f;
#endif
    std::vector<float> A(K * D * N);
    for (int i = 0; i < K * D * N; ++i) A[i] = -(i % N + 1) * (0.5f + 0.2f * fabsf(normal(random)));

    typedef std::vector<double> Doubles;
    Doubles y(rows * K * D), gx(y), gdt(y), gb(rows * K * N), gc(gb), ga(K * N * D), gbias(K * D);
    Doubles states((size_t)batch * K * intervals * N * D), entering((size_t)batch * K * chunks * N * D), flow(entering);
    for (int i = 0; i < batch * K * D; ++i) {
        const int d = i % D, k = i / D % K, image = i / D / K;
        auto row = [&](int t) { return (size_t)image * L + order[k * L + t]; };
        auto delta = [&](size_t r) {
            const u16 element = product[r * columns + k * D + d];
            return RAW ? log1p(exp(wide(element) + bias[k * D + d])) : (double)f16(element);
        };
        auto b = [&](size_t r, int n) { return wide(product[r * columns + K * D + 2 * k * N + n]); };
        auto c = [&](size_t r, int n) { return wide(product[r * columns + K * D + 2 * k * N + N + n]); };
        auto at = [&](int of, int index, int n) { return (((size_t)(image * K + k) * of + index) * N + n) * D + d; };
        Doubles h((L + 1) * N), g(N);
        for (int t = 0; t < L; ++t)
            for (int n = 0; n < N; ++n) {
                const size_t r = row(t);
                const double before = h[t * N + n], a = A[(k * D + d) * N + n];
                if (t % TOKENS == 0) states[at(intervals, t / TOKENS, n)] = before;
                if (t % chunk == 0) entering[at(chunks, t / chunk, n)] = before;
                h[(t + 1) * N + n] = before * exp(delta(r) * a) + delta(r) * wide(x[r * D + d]) * b(r, n);
                y[(r * K + k) * D + d] += h[(t + 1) * N + n] * c(r, n);
            }
        for (int t = L - 1; t >= 0; --t) {
            const size_t r = row(t);
            double gu = 0, gdelta = 0;
            for (int n = 0; n < N; ++n) {
                const double a = A[(k * D + d) * N + n], v = wide(gy[r * D + d]), gh = g[n] + v * c(r, n);
                if ((t + 1) % chunk == 0) flow[at(chunks, t / chunk, n)] = g[n];
                g[n] = gh * exp(delta(r) * a);
                gu += gh * b(r, n);
                gdelta += g[n] * h[t * N + n] * a;
                ga[(k * N + n) * D + d] += g[n] * h[t * N + n] * delta(r);
                gb[(r * K + k) * N + n] += gh * delta(r) * wide(x[r * D + d]);
                gc[(r * K + k) * N + n] += h[(t + 1) * N + n] * v;
            }
            gx[(r * K + k) * D + d] = gu * delta(r);
            gdt[(r * K + k) * D + d] = (gdelta + gu * wide(x[r * D + d])) * (1 - exp(-delta(r)));
            gbias[k * D + d] += gdt[(r * K + k) * D + d];
        }
    }

    bool wrong = false;
    auto check = [&](const char* name, const Doubles& expected, auto actual, double tolerance = 1e-2) {
        double error = 0, norm = 0;
        for (size_t i = 0; i < expected.size(); ++i) {
            error += pow(actual(i) - expected[i], 2);
            norm += expected[i] * expected[i];
        }
        const double relative = sqrt(error / max(norm, 1e-30));
        wrong |= !(relative <= tolerance);
        printf("%s %.1e ", name, relative);
    };
    auto floats = [](const Doubles& v) { return std::vector<float>(v.begin(), v.end()); };
    const std::vector<float> entering32 = floats(entering), flow32 = floats(flow);
    p.delta = product.data(), p.a = A.data(), p.bias = bias.data();
    p.length = L, p.channels = D;
    p.chunks = chunks, p.chunk_intervals = chunk_intervals, p.intervals = intervals;
    const u16 *const b = p.delta + K * D, *const c = b + N;
    const u16 nan16 = 0x7fff;
#ifdef OF_GRADIENT
    p.v = OF_GRADIENT ? gy.data() : x.data(), p.w = OF_GRADIENT ? c : b;
    p.stride_v = D, p.stride_delta = p.stride_w = columns, p.stride_wk = 2 * N;
    std::vector<float> ends(entering.size(), NAN), time(ends.size() / N, NAN), out(ends.size(), NAN);
    p.ends = ends.data(), p.time = time.data();
    launch<Block>({blocks, K * (chunks - 1), batch}, THREADS, scan_chunks, p);
    const EntryArguments of_entries = {p.ends, p.time, p.a, out.data(), D, chunks};
    launch<Block>({(N * D + THREADS - 1) / THREADS, K, batch}, THREADS, chunk_entries, of_entries);
    check("entering", OF_GRADIENT ? flow : entering, [&](size_t i) { return out[i]; }, 2e-5);
#else
    p.x = x.data(), p.b = b, p.c = c;
    p.stride_x = D, p.stride_delta = p.stride_b = columns, p.stride_bk = 2 * N;
    const Index grid = {blocks, K * chunks, batch};
#ifdef FORWARD
    typedef std::conditional_t<HALF, float, u16> Output;
    std::vector<Output> out(y.size(), HALF ? (Output)NAN : (Output)nan16);
    std::vector<u16> boundary(states.size(), nan16);
    p.initial_state = entering32.data(), p.y = (Outputs*)out.data(), p.saved_states = boundary.data();
    launch<Block>(grid, THREADS, scan_forward, p);
    check("y", y, [&](size_t i) { return HALF ? (double)out[i] : wide((u16)out[i]); }, HALF ? 1e-3 : 1e-2);
    check("states", states, [&](size_t i) { return of_bf16(boundary[i]); });
#else
    std::vector<u16> boundary(states.size()), out(y.size(), nan16), gproduct(product.size(), nan16);
    for (size_t i = 0; i < states.size(); ++i) boundary[i] = bf16(states[i]);
    std::vector<float> parts[2], sums(batch * chunks * ga.size(), NAN);
    std::vector<float> bias_sums(batch * chunks * gbias.size(), NAN);
    for (auto& part : parts) part.assign(blocks * gb.size(), NAN);
    p.gy = gy.data(), p.stride_gy = D, p.saved_states = boundary.data(), p.final_dh = flow32.data(), p.batch = batch;
    p.gx = out.data(), p.gdt = gproduct.data(), p.stride_gdt = columns, p.ga = sums.data(), p.gbias = bias_sums.data();
    p.gb = parts[0].data(), p.gc = parts[1].data();
    if (blocks == 1) p.gb = p.gdt + K * D, p.gc = p.gdt + K * D + N;
    p.stride_gb = columns, p.stride_gbk = 2 * N;
    launch<Block>(grid, THREADS, scan_backward, p);
    auto summed = [](const std::vector<float>& v, size_t size, size_t i) {
        double total = 0;
        for (; i < v.size(); i += size) total += v[i];
        return total;
    };
    auto of_states = [&](int which) {
        return [&, which](size_t i) {
            const size_t place = i / (K * N) * columns + K * D + 2 * (i / N % K) * N + which * N + i % N;
            return blocks == 1 ? wide(gproduct[place]) : summed(parts[which], gb.size(), i);
        };
    };
    check("x", gx, [&](size_t i) { return wide(out[i]); });
    check("dt", gdt, [&](size_t i) { return wide(gproduct[i / (K * D) * columns + i % (K * D)]); });
    check("B", gb, of_states(0));
    check("C", gc, of_states(1));
    check("A", ga, [&](size_t i) { return summed(sums, ga.size(), i); });
    check("dt_bias", gbias, [&](size_t i) { return summed(bias_sums, gbias.size(), i); });
#endif
#endif
    puts(wrong ? "WRONG" : "right");
    return wrong;
}
