// Backward of the selective scan in K directions, for bf16. One interval after the other from the end: a first pass
// walks the states from the saved ones, leaves one per group in shared memory and makes gc; the second goes backward,
// a group of four tokens at a time in registers. Without atomics: what is summed over blocks, images or chunks
// afterwards is written apart.
//
// Outer products (u b, gy c) are matrix products of which one token's rows or columns are not zero, on top of the
// decayed state. u is split into two bf16 values, so that it loses nothing to them; b, c and gy are bf16 as they come.

struct Arguments {
    const u16 *gy, *x, *delta;          // (batch, L, channels), the same, (batch, L, K, channels) as RAW says
    const u16 *b, *c;                   // (batch, L, K, N)
    const u16* saved_states;                // (batch, K, intervals, N, channels), bf16
    const float *a, *final_dh;              // (K, channels, N); (batch, K, chunks, N, channels) or null
    const float* bias;                  // of dt, if RAW; (K, channels)
    u16 *gx, *gdt;                      // (batch, L, K, channels)
    void *gb, *gc;                      // one block: bf16 (batch, L, K, N); else fp32 (blocks, batch, L, K, N)
    float *ga, *gbias;                  // (batch * chunks, K, N, channels), (batch * chunks, K, channels)
    i64 stride_gy, stride_x, stride_delta, stride_b, stride_bk, stride_gdt, stride_gb, stride_gbk;
    int length, channels;
    GRID;
    int chunks, chunk_intervals, intervals, batch;
};

struct Group {                  // of four tokens, at one distance in shared memory
    // bf16 twice, states 4m + (0, 2, 1, 3), of a token for the lanes with its q; zeros for the others
    u32 b[4][4][STATES], c[4][4][STATES];
    float b32[4][STATES];
    uint4 states[WARPS][32];    // h before the group, bf16
    uint2 sums[2][WARPS][16];   // gc and gb of each warp, bf16; lanes with q < 2
};

struct Block {
    u32 raw[2][GROUPS][3][4][PITCH];  // x, delta, gy as they lie in memory, of this interval and the next
    u32 saved_states[2][STATES][PITCH];
    Group groups[GROUPS];
    uint4 raw_bc[TOKENS][4];
    float4 prepared[WARPS][2][40];  // by 10 q + g: delta, and gy or u, of two channels; padded against bank conflicts
    float bias[WARPS][CHANNELS];
    int rows[4][TOKENS];  // a fast warp places those of two intervals on while a slow one still sums the last
};

struct Words {
    u32 x, delta, gy;
};

__device__ __forceinline__ Words load(const u32 (*raw)[4][PITCH], int at_raw) {
    const u32* const words = &at<const u32>(raw, at_raw);
    return {words[0], words[4 * PITCH], words[8 * PITCH]};
}

static_assert(sizeof(Block) == SHARED_BYTES, "the launch gives a block its shared memory");

extern "C" __global__ void __launch_bounds__(THREADS, PER_PROCESSOR) scan_backward(const Arguments p) {
    SHARED_MEMORY(shared);
    Block& block = *(Block*)shared;
    const int lane = threadIdx.x & 31, g = lane >> 2, q = lane & 3, warp = threadIdx.x >> 5, column = warp * 8 + g;
    // Where a lane's own things are in shared memory, in bytes.
    int at_bc = 64 * q + 8 * g, at_b32 = 16 * q, at_states = 512 * warp + 16 * lane, at_raw = 4 * (PITCH * q + column);
    int at_theirs = (int)sizeof(block.prepared[0]) * warp + 16 * g, at_mine = at_theirs + 160 * q;
    int at_sums = 128 * warp + 8 * (2 * g + q);
    keep(at_bc, at_b32, at_states, at_raw, at_theirs, at_mine, at_sums);
    u32 ones[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) ones[i] = g == i ? 0x3f803f80u : 0u;
    keep(ones[0], ones[1], ones[2], ones[3]);
    const Place here;
    const int k = here.k;
    const int channel0 = blockIdx.x * (WARPS * CHANNELS), channel = channel0 + warp * CHANNELS + 2 * g;
    int exists = channel < p.channels;
    keep(exists);
    const i64 row0 = (i64)here.image * p.length;
    i64 at_gx = 2 * ((row0 * DIRECTIONS + k) * p.channels + channel);
    i64 at_gdt = 2 * (row0 * p.stride_gdt + k * p.channels + channel);
    keep(at_gx, at_gdt);
    const int end = min((here.chunk + 1) * p.chunk_intervals, p.intervals);

    float a2[2][4], ga[2][4], final_dh[2][4], gbias[2] = {0.f, 0.f};
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        if (RAW && q == 0) block.bias[warp][2 * g + e] = exists ? p.bias[k * p.channels + channel + e] : 0.f;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            a2[e][j] = exists ? p.a[((i64)k * p.channels + channel + e) * STATES + 4 * q + j] * LOG2_E : 0.f;
            const i64 at = ((here.sequence() * p.chunks + here.chunk) * STATES + 4 * q + j) * p.channels + channel + e;
            final_dh[e][j] = exists && p.final_dh ? p.final_dh[at] : 0.f;
            ga[e][j] = 0.f;
        }
    }
    float4 dh[2] = {make_float4(final_dh[0][0], final_dh[0][1], final_dh[1][0], final_dh[1][1]),
                    make_float4(final_dh[0][2], final_dh[0][3], final_dh[1][2], final_dh[1][3])};

    auto place_rows = [&](int s) {
        const Place place;
        each<TOKENS>([&](int i) {
            block.rows[s & 3][i] = ROW_OF(s * TOKENS + i, place.k);
        });
    };
    auto stage = [&](int s) {  // copies an interval's tokens and the state before it
        auto& raw = block.raw[s & 1];
        const Place place;
        const int pieces = min(2 * WARPS, (p.channels - channel0) / 8);  // 16 bytes each, of a token
        const i64 row0 = (i64)place.image * p.length;
        each<TOKENS * 2 * WARPS>([&](int i) {
            const int t = i / (2 * WARPS), piece = i % (2 * WARPS), row = block.rows[s & 3][t];
            if (piece >= pieces) return;  // stays zero
            const i64 at = row0 + max(row, 0);
            const int from = channel0 + 8 * piece;
            copy_async3(&raw[t >> 2][0][t & 3][4 * piece], p.x + at * p.stride_x + from,
                        &raw[t >> 2][1][t & 3][4 * piece], p.delta + at * p.stride_delta + place.k * p.channels + from,
                        &raw[t >> 2][2][t & 3][4 * piece], p.gy + at * p.stride_gy + from, row >= 0);
        });
        const int thread = thread_x(), n = thread / (2 * WARPS), piece = thread % (2 * WARPS);
        if (piece < pieces) {
            const i64 at = ((place.sequence() * p.intervals + s) * STATES + n) * p.channels + channel0 + 8 * piece;
            copy_async(&block.saved_states[s & 1][n][4 * piece], p.saved_states + at, true);
        }
        each<TOKENS * 4>([&](int i) {  // halves of b and c
            const int t = i >> 2, quarter = i & 3, row = block.rows[s & 3][t];
            const i64 at = (row0 + max(row, 0)) * p.stride_b + place.k * p.stride_bk + (quarter & 1) * 8;
            copy_async(&block.raw_bc[t][quarter], (quarter < 2 ? p.b : p.c) + at, row >= 0);
        });
        commit_copies();
    };
    auto widen_bc = [&]() {  // each thread what it has copied
        each<TOKENS * 4>([&](int i) {
            const int t = i >> 2, half = i & 1;
            const uint4 v = block.raw_bc[t][i & 3];
            Group& group = block.groups[t >> 2];
            widen(v, &(i & 2 ? group.c : group.b)[t & 3][t & 3][8 * half]);
            if (i & 2) return;
            const float2 v0 = unpack_bf16(v.x), v1 = unpack_bf16(v.y), v2 = unpack_bf16(v.z), v3 = unpack_bf16(v.w);
            float4* to32 = (float4*)&group.b32[t & 3][8 * half];
            to32[0] = make_float4(v0.x, v0.y, v1.x, v1.y);
            to32[1] = make_float4(v2.x, v2.y, v3.x, v3.y);
        });
    };

    for (int i = threadIdx.x; i < (int)(sizeof(block.raw) + sizeof(block.saved_states) + sizeof(block.groups)) / 16; i += THREADS)
        ((uint4*)block.raw)[i] = make_uint4(0, 0, 0, 0);
    place_rows(end - 1);
    if (end - 2 >= here.chunk * p.chunk_intervals) place_rows(end - 2);
    __syncthreads();
    stage(end - 1);
    const int first = here.chunk * p.chunk_intervals;
    for (int s = end - 1; s >= first; --s) {
        wait_for_copies();
        widen_bc();
        if (s - 2 >= first) place_rows(s - 2);
        __syncthreads();
        if (s > first) stage(s - 1);
        auto& raw = block.raw[s & 1];
        const auto& saved_states = block.saved_states[s & 1];
        const int* rows = block.rows[s & 3];

        float4 h[2];  // (even channel, states 4q and 4q + 1), (odd, the same); the second of states 4q + 2 and 4q + 3
        auto unpack_states = [&](u32 w0, u32 w1, u32 w2, u32 w3) {
            const float2 v0 = unpack_bf16(w0), v1 = unpack_bf16(w1), v2 = unpack_bf16(w2), v3 = unpack_bf16(w3);
            h[0] = make_float4(v0.x, v1.x, v0.y, v1.y);
            h[1] = make_float4(v2.x, v3.x, v2.y, v3.y);
        };
        unpack_states(saved_states[4 * q][column], saved_states[4 * q + 1][column],
                      saved_states[4 * q + 2][column], saved_states[4 * q + 3][column]);

        float4 *const mine = &at<float4>(block.prepared, at_mine), *const theirs = &at<float4>(block.prepared, at_theirs);
        // The first pass. The words of a group are read two groups ahead, and prepared one group ahead.
        Words words = load(raw[0], at_raw);
        u32 u_even, u_odd;
        auto prepare_first = [&](int group) {
            const float2 x = unpack_bf16(words.x), gy = unpack_bf16(words.gy);
            const float2 delta = delta_of(words.delta, *(const float2*)&block.bias[warp][2 * g]);
            // For the second pass; nobody else reads this word. The last group comes twice, then in fp16.
            if (RAW && group < GROUPS) at<u32>(raw[group][1], at_raw) = pack_f16(delta.x, delta.y);
            mine[(group & 1) * 40] = make_float4(delta.x, delta.y, gy.x, gy.y);
            u_even = split(x.x * delta.x);
            u_odd = split(x.y * delta.y);
        };
        prepare_first(0);
        words = load(raw[1], at_raw);
#pragma unroll 1
        for (int group = 0; group < GROUPS; ++group) {
            Group& now = block.groups[group];
            __syncwarp();
            const u32 even = u_even, odd = u_odd;
            prepare_first(group + 1);  // after the last one again, which nobody reads
            words = load(raw[min(group + 2, GROUPS - 1)], at_raw);
            at<uint4>(now.states, at_states) = make_uint4(pack_bf16(h[0].x, h[0].z), pack_bf16(h[0].y, h[0].w),
                                                  pack_bf16(h[1].x, h[1].z), pack_bf16(h[1].y, h[1].w));
            float4 sums = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float4 v = theirs[(group & 1) * 40 + 10 * i];
                const uint2 b = at<const uint2>(now.b[i], at_bc);
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    h[j].x *= exp2_(v.x * a2[0][2 * j]);
                    h[j].y *= exp2_(v.x * a2[0][2 * j + 1]);
                    h[j].z *= exp2_(v.y * a2[1][2 * j]);
                    h[j].w *= exp2_(v.y * a2[1][2 * j + 1]);
                    h[j] = multiply_bf16(even, odd, j ? b.y : b.x, h[j]);
                }
                const u32 low = pack_bf16(h[0].x * v.z + h[0].z * v.w, h[0].y * v.z + h[0].w * v.w);
                const u32 high = pack_bf16(h[1].x * v.z + h[1].z * v.w, h[1].y * v.z + h[1].w * v.w);
                sums = multiply_bf16(transpose(low), transpose(high), ones[i], sums);
            }
            if (q < 2)
                at<uint2>(now.sums[0], at_sums) = make_uint2(pack_bf16(sums.x, sums.y), pack_bf16(sums.z, sums.w));
        }

        // The second pass; the last group's words are still there.
        u32 gy_even, gy_odd;
        auto prepare_second = [&](int group) {
            const float2 x = unpack_bf16(words.x), delta = unpack_f16(words.delta);
            const float u0 = x.x * delta.x, u1 = x.y * delta.y;
            mine[(group & 1) * 40] = make_float4(delta.x, delta.y, u0, u1);
            u_even = split(u0);
            u_odd = split(u1);
            gy_even = words.gy & 0xffffu;
            gy_odd = words.gy >> 16;
        };
        __syncwarp();
        prepare_second(GROUPS - 1);
        words = load(raw[GROUPS - 2], at_raw);
#pragma unroll 1
        for (int group = GROUPS - 1; group >= 0; --group) {
            Group& now = block.groups[group];
            __syncwarp();
            const u32 even = u_even, odd = u_odd, gy0 = gy_even, gy1 = gy_odd;
            prepare_second(group + 1);  // in place of the one after, whose parity the one before has
            const uint4 saved = at<uint4>(now.states, at_states);
            unpack_states(saved.x, saved.y, saved.z, saved.w);
            words = load(raw[max(group - 2, 0)], at_raw);
            float4 decay[4][2], kept[4][2];  // kept = decay h
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 delta = *(const float2*)&theirs[(group & 1) * 40 + 10 * i];
                const uint2 b = at<const uint2>(now.b[i], at_bc);
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const float4 d = make_float4(exp2_(delta.x * a2[0][2 * j]), exp2_(delta.x * a2[0][2 * j + 1]),
                                                 exp2_(delta.y * a2[1][2 * j]), exp2_(delta.y * a2[1][2 * j + 1]));
                    decay[i][j] = d;
                    kept[i][j] = make_float4(h[j].x * d.x, h[j].y * d.y, h[j].z * d.z, h[j].w * d.w);
                    if (i < 3) h[j] = multiply_bf16(even, odd, j ? b.y : b.x, kept[i][j]);
                }
            }
            float4 sums = make_float4(0.f, 0.f, 0.f, 0.f), of_token = sums;
#pragma unroll
            for (int i = 3; i >= 0; --i) {
                const float4 v = theirs[(group & 1) * 40 + 10 * i];
                const uint2 c = at<const uint2>(now.c[i], at_bc);
                const float4 b32 = at<const float4>(now.b32[i], at_b32);
                float4 gh[2];
                float gu[2] = {0.f, 0.f}, gexponent[2] = {0.f, 0.f};
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    gh[j] = multiply_bf16(gy0, gy1, j ? c.y : c.x, dh[j]);
                    const float4 product = make_float4(gh[j].x * kept[i][j].x, gh[j].y * kept[i][j].y,
                                                       gh[j].z * kept[i][j].z, gh[j].w * kept[i][j].w);
                    dh[j] = make_float4(gh[j].x * decay[i][j].x, gh[j].y * decay[i][j].y,
                                          gh[j].z * decay[i][j].z, gh[j].w * decay[i][j].w);
                    ga[0][2 * j] += product.x * v.x;
                    ga[0][2 * j + 1] += product.y * v.x;
                    ga[1][2 * j] += product.z * v.y;
                    ga[1][2 * j + 1] += product.w * v.y;
                    gexponent[0] += product.x * a2[0][2 * j];
                    gexponent[0] += product.y * a2[0][2 * j + 1];
                    gexponent[1] += product.z * a2[1][2 * j];
                    gexponent[1] += product.w * a2[1][2 * j + 1];
                    gu[0] += gh[j].x * (j ? b32.z : b32.x);
                    gu[0] += gh[j].y * (j ? b32.w : b32.y);
                    gu[1] += gh[j].z * (j ? b32.z : b32.x);
                    gu[1] += gh[j].w * (j ? b32.w : b32.y);
                }
                of_token = multiply_tf32(gu[0], gu[1], gexponent[0], gexponent[1], g == 2 * i ? 1.f : 0.f,
                                         g == 2 * i + 1 ? 1.f : 0.f, of_token);
                const u32 low = pack_bf16(gh[0].x * v.z + gh[0].z * v.w, gh[0].y * v.z + gh[0].w * v.w);
                const u32 high = pack_bf16(gh[1].x * v.z + gh[1].z * v.w, gh[1].y * v.z + gh[1].w * v.w);
                sums = multiply_bf16(transpose(low), transpose(high), ones[i], sums);
            }
            if (q < 2)
                at<uint2>(now.sums[1], at_sums) = make_uint2(pack_bf16(sums.x, sums.y), pack_bf16(sums.z, sums.w));

            const float2 delta = *(const float2*)&mine[(group & 1) * 40];
            const float2 x = unpack_bf16(at<const u32>(raw[group], at_raw));
            const int row = rows[4 * group + q];
            const float gdt0 = (of_token.y * LN_2 + of_token.x * x.x) * (1.f - exp2_(-delta.x * LOG2_E));
            const float gdt1 = (of_token.w * LN_2 + of_token.z * x.y) * (1.f - exp2_(-delta.y * LOG2_E));
            gbias[0] += gdt0;
            gbias[1] += gdt1;
            if (exists && row >= 0) {
                *(u32*)((char*)p.gx + (at_gx + (size_t)(u32)row * (u32)(2 * DIRECTIONS * p.channels))) =
                    pack_bf16(of_token.x * delta.x, of_token.z * delta.y);
                *(u32*)((char*)p.gdt + (at_gdt + (size_t)(u32)row * (u32)(2 * p.stride_gdt))) = pack_bf16(gdt0, gdt1);
            }
        }
        __syncthreads();
        const Place place;
        const i64 row0 = (i64)place.image * p.length;
        const i64 of_blocks = ((i64)blockIdx.x * p.batch + place.image) * p.length;
        each<2 * GROUPS * 16>([&](int i) {
            const int what = i / (GROUPS * 16), group = i / 16 % GROUPS, at = i % 16;
            float total[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
            for (int w = 0; w < WARPS; ++w) {
                const uint2 v = block.groups[group].sums[what][w][at];
                const float2 v0 = unpack_bf16(v.x), v1 = unpack_bf16(v.y);
                total[0] += v0.x;
                total[1] += v0.y;
                total[2] += v1.x;
                total[3] += v1.y;
            }
            const int state = 4 * (at >> 2) + ((at >> 1) & 1);
            void* out = what ? p.gb : p.gc;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int n = state + (j & 2), row = rows[4 * group + 2 * (at & 1) + (j & 1)];
                if (row < 0) continue;
                if (gridDim.x == 1)
                    ((u16*)out)[(row0 + row) * p.stride_gb + place.k * p.stride_gbk + n] =
                        (u16)pack_bf16(total[j], 0.f);
                else
                    ((float*)out)[((of_blocks + row) * DIRECTIONS + place.k) * STATES + n] = total[j];
            }
        });
    }

    if (exists) {
        const i64 index = ((i64)here.image * p.chunks + here.chunk) * DIRECTIONS + k;
#pragma unroll
        for (int j = 0; j < 4; ++j)
            *(float2*)(p.ga + (index * STATES + 4 * q + j) * p.channels + channel) = make_float2(ga[0][j], ga[1][j]);
    }
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
        gbias[0] += __shfl_xor_sync(0xffffffffu, gbias[0], distance);
        gbias[1] += __shfl_xor_sync(0xffffffffu, gbias[1], distance);
    }
    if (exists && q == 0)
        *(float2*)(p.gbias + (((i64)here.image * p.chunks + here.chunk) * DIRECTIONS + k) * p.channels + channel) =
            make_float2(gbias[0], gbias[1]);
}
