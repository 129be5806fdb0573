// Forward of the selective scan in K directions, for bf16 or, HALF, fp16: y of each direction without the skip, and the
// sparse states. Of fp16 y is fp32, because a sum over states can exceed 65504.
// The outer product u b is a matrix product as in the backward.

#if HALF
typedef float2 Outputs;  // of two channels
__device__ __forceinline__ Outputs outputs(float even, float odd) { return make_float2(even, odd); }
#else
typedef u32 Outputs;
__device__ __forceinline__ Outputs outputs(float even, float odd) { return pack_bf16(even, odd); }
#endif

struct Arguments {
    const u16 *x, *delta, *b, *c;  // (batch, L, channels), (batch, L, K, channels) as RAW says, (batch, L, K, N)
    const float *a, *initial_state;     // (K, channels, N); (batch, K, chunks, N, channels) or null
    const float* bias;             // of dt, if RAW; (K, channels)
    Outputs* y;                        // (batch, L, K, channels)
    u16* saved_states;                 // (batch, K, intervals, N, channels) or null
    i64 stride_x, stride_delta, stride_b, stride_bk;
    int length, channels;
    GRID;
    int chunks, chunk_intervals, intervals;
};

struct Group {  // of four tokens, at one distance in shared memory
    // Of this interval and the next. b as `of_states` makes it, states 4m + (0, 2, 1, 3), of a token for the lanes with its
    // q; zeros for the others.
    u32 b[2][4][4][STATES];
    float c[2][4][STATES];
};

struct Block {
    u32 raw[2][GROUPS][2][4][PITCH];  // x and delta as they lie in memory, of this interval and the next
    Group groups[GROUPS];
    uint4 raw_bc[TOKENS][4];
    float2 prepared[WARPS][2][48];  // by 12 q + g: delta of two channels; padded against bank conflicts
    int rows[4][TOKENS];  // a fast warp places those of two intervals on while a slow one is still at the last
};

static_assert(sizeof(Block) == SHARED_BYTES, "the launch gives a block its shared memory");

extern "C" __global__ void __launch_bounds__(THREADS, PER_PROCESSOR) scan_forward(const Arguments p) {
    SHARED_MEMORY(shared);
    Block& block = *(Block*)shared;
    const int lane = threadIdx.x & 31, g = lane >> 2, q = lane & 3, warp = threadIdx.x >> 5, column = warp * 8 + g;
    // Where a lane's own things are in shared memory, in bytes.
    int lane_b = 64 * q + 8 * g, lane_c = 16 * q, at_raw = 4 * (PITCH * q + column);
    int at_theirs = (int)sizeof(block.prepared[0]) * warp + 8 * g, at_mine = at_theirs + 96 * q;
    keep(lane_b, lane_c, at_raw, at_theirs, at_mine);
    const Place here;
    const int k = here.k;
    const int channel0 = blockIdx.x * (WARPS * CHANNELS), channel = channel0 + warp * CHANNELS + 2 * g;
    int exists = channel < p.channels;
    keep(exists);
    const i64 row0 = (i64)here.image * p.length;
    const int first = here.chunk * p.chunk_intervals, end = min(first + p.chunk_intervals, p.intervals);

    i64 at_y = (int)sizeof(Outputs) / 2 * ((row0 * DIRECTIONS + k) * p.channels + channel);
    keep(at_y);

    float a2[2][4], initial_state[2][4], bias[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        bias[e] = RAW && exists ? p.bias[k * p.channels + channel + e] : 0.f;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            a2[e][j] = exists ? p.a[((i64)k * p.channels + channel + e) * STATES + 4 * q + j] * LOG2_E : 0.f;
            const i64 at = ((here.sequence() * p.chunks + here.chunk) * STATES + 4 * q + j) * p.channels + channel + e;
            initial_state[e][j] = exists && p.initial_state ? p.initial_state[at] : 0.f;
        }
    }
    // (even channel, states 4q and 4q + 1), (odd, the same); the second of states 4q + 2 and 4q + 3
    float4 h[2] = {make_float4(initial_state[0][0], initial_state[0][1], initial_state[1][0], initial_state[1][1]),
                   make_float4(initial_state[0][2], initial_state[0][3], initial_state[1][2], initial_state[1][3])};

    auto place_rows = [&](int s) {
        each<TOKENS>([&](int i) {
            block.rows[s & 3][i] = ROW_OF(s * TOKENS + i, k);
        });
    };
    auto stage = [&](int s) {  // copies an interval's tokens
        const Place place;
        const int pieces = min(2 * WARPS, (p.channels - channel0) / 8);  // 16 bytes each, of a token
        const i64 row0 = (i64)place.image * p.length;
        each<TOKENS * 2 * WARPS>([&](int i) {
            const int t = i / (2 * WARPS), piece = i % (2 * WARPS), row = block.rows[s & 3][t];
            if (piece >= pieces) return;  // stays zero
            const i64 at = row0 + max(row, 0);
            const int from = channel0 + 8 * piece;
            auto& raw = block.raw[s & 1][t >> 2];
            copy_async2(&raw[0][t & 3][4 * piece], p.x + at * p.stride_x + from, &raw[1][t & 3][4 * piece],
                        p.delta + at * p.stride_delta + place.k * p.channels + from, row >= 0);
        });
        each<TOKENS * 4>([&](int i) {  // halves of b and c
            const int t = i >> 2, quarter = i & 3, row = block.rows[s & 3][t];
            const i64 at = (row0 + max(row, 0)) * p.stride_b + place.k * p.stride_bk + (quarter & 1) * 8;
            copy_async(&block.raw_bc[t][quarter], (quarter < 2 ? p.b : p.c) + at, row >= 0);
        });
        commit_copies();
    };
    auto widen_bc = [&](int s) {  // each thread what it has copied
        each<TOKENS * 4>([&](int i) {
            const int t = i >> 2, half = i & 1;
            const uint4 v = block.raw_bc[t][i & 3];
            Group& group = block.groups[t >> 2];
            if (i & 2) {
                const float2 v0 = unpack(v.x), v1 = unpack(v.y), v2 = unpack(v.z), v3 = unpack(v.w);
                float4* to = (float4*)&group.c[s & 1][t & 3][8 * half];
                to[0] = make_float4(v0.x, v0.y, v1.x, v1.y);
                to[1] = make_float4(v2.x, v2.y, v3.x, v3.y);
            } else
                widen(v, &group.b[s & 1][t & 3][t & 3][8 * half]);
        });
    };

    for (int i = threadIdx.x; i < (int)(sizeof(block.raw) + sizeof(block.groups)) / 16; i += THREADS)
        ((uint4*)block.raw)[i] = make_uint4(0, 0, 0, 0);
    place_rows(first);
    if (first + 1 < end) place_rows(first + 1);
    __syncthreads();
    stage(first);
    for (int s = first; s < end; ++s) {
        wait_for_copies();
        widen_bc(s);
        if (s + 2 < end) place_rows(s + 2);
        __syncthreads();
        if (s + 1 < end) stage(s + 1);
        const auto& raw = block.raw[s & 1];
        const int* rows = block.rows[s & 3];
        const int at_b = lane_b + (s & 1) * (int)sizeof(block.groups[0].b[0]);
        const int at_c = lane_c + (s & 1) * (int)sizeof(block.groups[0].c[0]);

        if (exists && p.saved_states) {
            u16* to = p.saved_states + ((here.sequence() * p.intervals + s) * STATES + 4 * q) * p.channels + channel;
            *(u32*)to = pack_bf16(h[0].x, h[0].z);
            *(u32*)(to + p.channels) = pack_bf16(h[0].y, h[0].w);
            *(u32*)(to + 2 * p.channels) = pack_bf16(h[1].x, h[1].z);
            *(u32*)(to + 3 * p.channels) = pack_bf16(h[1].y, h[1].w);
        }
        // The words of a group are read two groups ahead, and prepared one group ahead.
        float2 *const mine = &at<float2>(block.prepared, at_mine), *const theirs = &at<float2>(block.prepared, at_theirs);
        u32 x_words = at<const u32>(raw[0][0], at_raw), delta_words = at<const u32>(raw[0][1], at_raw);
        Channels u_ahead;
        auto prepare = [&](int group) {
            const float2 x = unpack(x_words), delta = delta_of(delta_words, make_float2(bias[0], bias[1]));
            mine[(group & 1) * 48] = delta;
            u_ahead = of_channels(x.x * delta.x, x.y * delta.y);
        };
        prepare(0);
        x_words = at<const u32>(raw[1][0], at_raw);
        delta_words = at<const u32>(raw[1][1], at_raw);
#pragma unroll 1
        for (int group = 0; group < GROUPS; ++group) {
            const Group& now = block.groups[group];
            __syncwarp();
            const Channels u = u_ahead;
            prepare(group + 1);  // after the last one again, which nobody reads
            const auto& ahead = raw[min(group + 2, GROUPS - 1)];
            x_words = at<const u32>(ahead[0], at_raw);
            delta_words = at<const u32>(ahead[1], at_raw);
            float4 sums = make_float4(0.f, 0.f, 0.f, 0.f);
            float y[4][2];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 delta = theirs[(group & 1) * 48 + 12 * i];
                const uint2 b = at<const uint2>(now.b[0][i], at_b);
                const float4 c = at<const float4>(now.c[0][i], at_c);
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    h[j].x *= exp2_(delta.x * a2[0][2 * j]);
                    h[j].y *= exp2_(delta.x * a2[0][2 * j + 1]);
                    h[j].z *= exp2_(delta.y * a2[1][2 * j]);
                    h[j].w *= exp2_(delta.y * a2[1][2 * j + 1]);
                    h[j] = outer_product(u, j ? b.y : b.x, h[j]);
                }
                y[i][0] = h[0].x * c.x + h[0].y * c.y + h[1].x * c.z + h[1].y * c.w;
                y[i][1] = h[0].z * c.x + h[0].w * c.y + h[1].z * c.z + h[1].w * c.w;
            }
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                const float one = g == 2 * i ? 1.f : 0.f, next = g == 2 * i + 2 ? 1.f : 0.f;
                sums = multiply_tf32(y[i][0], y[i][1], y[i + 1][0], y[i + 1][1], one, next, sums);
            }
            const int row = rows[4 * group + q];
            if (exists && row >= 0) {
                const u32 of_row = (int)sizeof(Outputs) / 2 * DIRECTIONS * p.channels;
                *(Outputs*)((char*)p.y + (at_y + (size_t)(u32)row * of_row)) = outputs(sums.x, sums.z);
            }
        }
    }
}
