// What enters the chunks of the selective scan in K directions, for bf16 or, HALF, fp16: forward h, OF_GRADIENT dh from behind.
//
// A chunk by itself leaves h = sum of exp2(a2 S) u b over its tokens, S being the sum of delta behind a token. That has no
// recurrence: the walk goes from the chunk's end to its start, and where S has brought eight states of a warp below FORGOTTEN
// it leaves them out from there on. Of dh it is sum of exp2(a2 S) gy c, S with the token's own delta, from start to end.

#define FORGOTTEN -20.f  // log2 of what is left of a state
#define AHEAD 8          // chunks whose results are loaded at once

struct Arguments {
    const u16 *v, *delta, *w;  // x or gy (batch, L, channels); (batch, L, K, channels) as RAW says; b or c (batch, L, K, N)
    const float *a, *bias;     // (K, channels, N); of dt, if RAW; (K, channels)
    float *ends, *time;        // of the chunks that others follow: (batch, K, chunks, N, channels), sums of delta without N
    i64 stride_v, stride_delta, stride_w, stride_wk;
    int length, channels;
    GRID;
    int chunks, chunk_intervals, intervals;
};

struct Group {  // of four tokens, at one distance in shared memory
    // Of this interval and the next: w as `of_states` makes it, by eight states, of a token for the lanes with its q; zeros
    // for the others.
    u32 w[2][4][2][4][8];
};

struct Block {
    u32 raw[2][GROUPS][2][4][PITCH];  // v and delta as they lie in memory, of this interval and the next
    Group groups[GROUPS];
    uint4 raw_w[TOKENS][2];
    float2 prepared[WARPS][2][48];  // by 12 q + g: delta of two channels; padded against bank conflicts
    int rows[4][TOKENS];
};

static_assert(sizeof(Block) == SHARED_BYTES, "the launch gives a block its shared memory");

// The grid has a chunk less than the images.
extern "C" __global__ void __launch_bounds__(THREADS, PER_PROCESSOR) scan_chunks(const Arguments p) {
    SHARED_MEMORY(shared);
    Block& block = *(Block*)shared;
    const int lane = threadIdx.x & 31, g = lane >> 2, q = lane & 3, warp = threadIdx.x >> 5, column = warp * 8 + g;
    // Where a lane's own things are in shared memory, in bytes.
    int lane_w = 4 * (8 * q + g), at_raw = 4 * (PITCH * q + column);
    int at_theirs = (int)sizeof(block.prepared[0]) * warp + 8 * g, at_mine = at_theirs + 96 * q;
    keep(lane_w, at_raw, at_theirs, at_mine);
    const Place here;
    const int k = here.k, chunk = here.chunk + OF_GRADIENT;
    const int channel0 = blockIdx.x * (WARPS * CHANNELS), channel = channel0 + warp * CHANNELS + 2 * g;
    const bool exists = channel < p.channels;
    const int first = chunk * p.chunk_intervals, end = min(first + p.chunk_intervals, p.intervals), count = end - first;

    // Of states 8 half + 2q and one more, the even channel's and then the odd one's.
    float a2[2][4], slowest[2][2], bias[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        bias[e] = RAW && exists ? p.bias[k * p.channels + channel + e] : 0.f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const i64 at = ((i64)k * p.channels + channel + e) * STATES + 8 * half + 2 * q + j;
                a2[half][2 * e + j] = exists ? p.a[at] * LOG2_E : 0.f;
            }
            slowest[half][e] = exists ? fmaxf(a2[half][2 * e], a2[half][2 * e + 1]) : -1e30f;
        }
    }
    float4 h[2] = {make_float4(0.f, 0.f, 0.f, 0.f), make_float4(0.f, 0.f, 0.f, 0.f)};
    float2 passed = make_float2(0.f, 0.f);  // S
    bool remembers[2] = {true, true};       // the same in all lanes of a warp

    auto place_rows = [&](int s) {  // of the s-th interval of the walk
        each<TOKENS>([&](int i) {
            block.rows[s & 3][i] = ROW_OF((OF_GRADIENT ? first + s : end - 1 - s) * TOKENS + i, k);
        });
    };
    auto stage = [&](int s) {  // copies an interval's tokens
        const int pieces = min(2 * WARPS, (p.channels - channel0) / 8);  // 16 bytes each, of a token
        const i64 row0 = (i64)here.image * p.length;
        each<TOKENS * 2 * WARPS>([&](int i) {
            const int t = i / (2 * WARPS), piece = i % (2 * WARPS), row = block.rows[s & 3][t];
            if (piece >= pieces) return;  // stays zero
            const i64 at = row0 + max(row, 0);
            const int from = channel0 + 8 * piece;
            auto& raw = block.raw[s & 1][t >> 2];
            copy_async2(&raw[0][t & 3][4 * piece], p.v + at * p.stride_v + from, &raw[1][t & 3][4 * piece],
                        p.delta + at * p.stride_delta + k * p.channels + from, row >= 0);
        });
        each<TOKENS * 2>([&](int i) {  // halves of w
            const int t = i >> 1, half = i & 1, row = block.rows[s & 3][t];
            copy_async(&block.raw_w[t][half], p.w + (row0 + max(row, 0)) * p.stride_w + k * p.stride_wk + half * 8,
                       row >= 0);
        });
        commit_copies();
    };
    auto widen_w = [&](int s) {  // each thread what it has copied
        each<TOKENS * 2>([&](int i) {
            const int t = i >> 1;
            const uint4 v = block.raw_w[t][i & 1];
            uint4* const to = (uint4*)block.groups[t >> 2].w[s & 1][t & 3][i & 1][t & 3];
            const uint2 v0 = of_states(v.x), v1 = of_states(v.y), v2 = of_states(v.z), v3 = of_states(v.w);
            to[0] = make_uint4(v0.x, v0.y, v1.x, v1.y);
            to[1] = make_uint4(v2.x, v2.y, v3.x, v3.y);
        });
    };

    for (int i = threadIdx.x; i < (int)(sizeof(block.raw) + sizeof(block.groups)) / 16; i += THREADS)
        ((uint4*)block.raw)[i] = make_uint4(0, 0, 0, 0);
    place_rows(0);
    if (count > 1) place_rows(1);
    __syncthreads();
    stage(0);
    for (int s = 0; s < count; ++s) {
        wait_for_copies();
        widen_w(s);
        if (s + 2 < count) place_rows(s + 2);
        if (!__syncthreads_or(remembers[0] || remembers[1])) break;
        if (s + 1 < count) stage(s + 1);
        if (!remembers[0] && !remembers[1]) continue;
        const auto& raw = block.raw[s & 1];
        const int at_w = lane_w + (s & 1) * (int)sizeof(block.groups[0].w[0]);

        // The words of a group are read two groups ahead, and prepared one group ahead.
        auto place = [](int group) { return OF_GRADIENT ? group : GROUPS - 1 - group; };
        float2 *const mine = &at<float2>(block.prepared, at_mine), *const theirs = &at<float2>(block.prepared, at_theirs);
        u32 v_words = at<const u32>(raw[place(0)][0], at_raw), delta_words = at<const u32>(raw[place(0)][1], at_raw);
        Channels v_ahead;
        auto prepare = [&](int group) {
            const float2 delta = delta_of(delta_words, make_float2(bias[0], bias[1]));
            mine[(group & 1) * 48] = delta;
            const float2 x = unpack(v_words);
            v_ahead = OF_GRADIENT ? of_channels(v_words) : of_channels(x.x * delta.x, x.y * delta.y);
        };
        prepare(0);
        v_words = at<const u32>(raw[place(1)][0], at_raw);
        delta_words = at<const u32>(raw[place(1)][1], at_raw);
#pragma unroll 1
        for (int group = 0; group < GROUPS; ++group) {
            const Group& now = block.groups[place(group)];
            __syncwarp();
            const Channels v = v_ahead;
            prepare(group + 1);  // after the last one again, which nobody reads
            const auto& ahead = raw[place(min(group + 2, GROUPS - 1))];
            v_words = at<const u32>(ahead[0], at_raw);
            delta_words = at<const u32>(ahead[1], at_raw);
            float2 sums[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 delta = theirs[(group & 1) * 48 + 12 * (OF_GRADIENT ? i : 3 - i)], before = passed;
                passed.x += delta.x;
                passed.y += delta.y;
                sums[i] = OF_GRADIENT ? passed : before;
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (!remembers[half]) continue;
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const u32 w = at<const u32>(now.w[0][OF_GRADIENT ? i : 3 - i][half], at_w);
                    const float4 product = outer_product(v, w, make_float4(0.f, 0.f, 0.f, 0.f));
                    h[half].x += exp2_(sums[i].x * a2[half][0]) * product.x;
                    h[half].y += exp2_(sums[i].x * a2[half][1]) * product.y;
                    h[half].z += exp2_(sums[i].y * a2[half][2]) * product.z;
                    h[half].w += exp2_(sums[i].y * a2[half][3]) * product.w;
                }
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float left = fmaxf(slowest[half][0] * passed.x, slowest[half][1] * passed.y);
            remembers[half] = __any_sync(0xffffffffu, left > FORGOTTEN);
        }
    }

    if (!exists) return;
    const i64 index = here.sequence() * p.chunks + chunk;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float* const to = p.ends + (index * STATES + 8 * half + 2 * q) * p.channels + channel;
        *(float2*)to = make_float2(h[half].x, h[half].z);
        *(float2*)(to + p.channels) = make_float2(h[half].y, h[half].w);
    }
    if (q == 0) *(float2*)(p.time + index * p.channels + channel) = passed;
}

struct EntryArguments {
    const float *ends, *time, *a;
    float* entering;  // (batch, K, chunks, N, channels)
    int channels, chunks;
};

// A thread for each state of a direction.
extern "C" __global__ void chunk_entries(const EntryArguments p) {
    const int states = STATES * p.channels, i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= states) return;
    const int k = block_y(), d = i % p.channels;
    const float a2 = p.a[(k * p.channels + d) * STATES + i / p.channels] * LOG2_E;
    const i64 chunk0 = ((i64)block_z() * DIRECTIONS + k) * p.chunks;
    float h = 0.f;
    for (int c = 0; c < p.chunks; c += AHEAD) {
        float own[AHEAD], decay[AHEAD];
        i64 at[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; ++j) {  // all loads first
            at[j] = chunk0 + (OF_GRADIENT ? p.chunks - 1 - c - j : c + j);
            const bool followed = c + j < p.chunks - 1;
            own[j] = followed ? p.ends[at[j] * states + i] : 0.f;
            decay[j] = followed ? exp2_(a2 * p.time[at[j] * p.channels + d]) : 0.f;
        }
#pragma unroll
        for (int j = 0; j < AHEAD; ++j) {
            if (c + j >= p.chunks) break;
            p.entering[at[j] * states + i] = h;
            h = h * decay[j] + own[j];
        }
    }
}
