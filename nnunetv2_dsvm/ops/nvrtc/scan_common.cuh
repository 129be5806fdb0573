// What the scan's forward and backward share. Compiled by NVRTC without any header.
//
// A block walks one direction of one image, or of one chunk of it, for WARPS * 16 channels; each warp has 16 channels
// and all 16 states. Lane (g, q) = (lane / 4, lane % 4) keeps channels 2g and 2g + 1 and states 4q to 4q + 3 in
// registers. A sum over states crosses the four lanes q: that is the contraction of a matrix product with ones on the
// tensor cores. A sum over channels crosses the eight lanes g: movmatrix turns them into the contraction, too.
//
// Tokens come in intervals of TOKENS, copied into shared memory one interval ahead, and inside them in groups of
// four: lane (g, q) prepares token q of the next group for all lanes while the current one is computed.
// Names as in the Triton kernels: a2 = A log2(e), decay = exp2(delta a2), u = delta x, h the state, dh its gradient.

#define STATES 16
#define CHANNELS 16  // of a warp
#define TOKENS 32    // of an interval: h before each is saved
#define GROUPS (TOKENS / 4)
#define THREADS (WARPS * 32)
#define PITCH (WARPS * 8 + (WARPS % 2 ? 0 : 8))  // words of a token in shared memory: four in different banks
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

// f(0) to f(COUNT - 1), dealt to the threads of the block.
template <int COUNT, class F>
__device__ __forceinline__ void each(F f) {
    const int thread = thread_x();
#pragma unroll
    for (int j = 0; j < (COUNT + THREADS - 1) / THREADS; ++j) {
        const int i = thread + j * THREADS;
        if (COUNT % THREADS == 0 || i < COUNT) f(i);
    }
}

__device__ __forceinline__ float2 unpack_bf16(u32 word) {
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

// Two values as one column pair of a bf16 matrix: what the first half leaves is in the second.
__device__ __forceinline__ u32 split(float v) {
    const float high = __uint_as_float(__float_as_uint(v) & 0xffff0000u);
    return pack_bf16(v - high, high);
}

// The factors of an outer product on the tensor cores, one of two channels and one of a state. HALF: what crosses memory is in
// fp16; TF32 holds that as it is, and has fp32's range for the other factor. Else it is in bf16.
#if HALF
struct Channels { float even, odd, even_rest, odd_rest; };

__device__ __forceinline__ float2 unpack(u32 word) { return unpack_f16(word); }

__device__ __forceinline__ Channels of_channels(u32 word) {
    const float2 v = unpack_f16(word);
    return {v.x, v.y, 0.f, 0.f};
}

__device__ __forceinline__ Channels of_channels(float even, float odd) {
    const float even_high = __uint_as_float(__float_as_uint(even) & 0xffffe000u);
    const float odd_high = __uint_as_float(__float_as_uint(odd) & 0xffffe000u);
    return {even_high, odd_high, even - even_high, odd - odd_high};
}

// Of two states.
__device__ __forceinline__ uint2 of_states(u32 word) {
    const float2 v = unpack_f16(word);
    return make_uint2(__float_as_uint(v.x), __float_as_uint(v.y));
}

__device__ __forceinline__ float4 outer_product(const Channels& u, u32 b, float4 c) {
    const float of_state = __uint_as_float(b);
    return multiply_tf32(u.even, u.odd, u.even_rest, u.odd_rest, of_state, of_state, c);
}
#else
struct Channels { u32 even, odd; };  // two bf16 values each, whose sum is meant

__device__ __forceinline__ float2 unpack(u32 word) { return unpack_bf16(word); }
__device__ __forceinline__ Channels of_channels(u32 word) { return {word & 0xffffu, word >> 16}; }
__device__ __forceinline__ Channels of_channels(float even, float odd) { return {split(even), split(odd)}; }

// Of two states: each twice in a word.
__device__ __forceinline__ uint2 of_states(u32 word) {
    return make_uint2(__byte_perm(word, 0, 0x1010), __byte_perm(word, 0, 0x3232));
}

__device__ __forceinline__ float4 outer_product(const Channels& u, u32 b, float4 c) {
    return multiply_bf16(u.even, u.odd, b, c);
}
#endif

// `of_states` of eight, in the order 4m + (0, 2, 1, 3).
__device__ __forceinline__ void widen(uint4 v, u32* to) {
    const uint2 v0 = of_states(v.x), v1 = of_states(v.y), v2 = of_states(v.z), v3 = of_states(v.w);
    *(uint4*)to = make_uint4(v0.x, v1.x, v0.y, v1.y);
    *(uint4*)(to + 4) = make_uint4(v2.x, v3.x, v2.y, v3.y);
}

// What lies `bytes` behind `from`.
template <class T>
__device__ __forceinline__ T& at(const void* from, int bytes) {
    return *(T*)((char*)from + bytes);
}

// log(1 + exp(v)); by its series where 1 + exp would lose the digits of exp.
__device__ __forceinline__ float softplus(float v) {
    const float e = exp2_(-LOG2_E * fabsf(v));
    return fmaxf(v, 0.f) + (e < 0.01f ? e * (1.f - 0.5f * e) : log2_(1.f + e) * LN_2);
}

// delta of two channels from their word: RAW, dt still without bias and softplus; else delta itself in fp16.
__device__ __forceinline__ float2 delta_of(u32 word, float2 bias) {
    if (!RAW) return unpack_f16(word);
    const float2 dt = unpack(word);
    return make_float2(softplus(dt.x + bias.x), softplus(dt.y + bias.y));
}

// How the grid of tokens is walked: an image's four directions by arithmetic; with WALKS, so many directions of a grid of
// up to three axes by numbers. GRID are its fields of a kernel's arguments p.
#if WALKS
#define DIRECTIONS WALKS
#define GRID Walk walks[WALKS]
#define ROW_OF(t, k) row_of(t, p.walks[k], p.length)

struct Walk {
    int line, lines;             // tokens of a line, lines of a slab
    int first;                   // raster index of the first token; from there on raster steps, negative backwards:
    int step, to_line, to_slab;  // along a line, from line to line, from slab to slab
};

// Raster index of the t-th token of a direction, or -1 past the end.
__device__ __forceinline__ int row_of(int t, const Walk& walk, int length) {
    const int line = t / walk.line, slab = line / walk.lines;
    const int in_slab = (t - line * walk.line) * walk.step + (line - slab * walk.lines) * walk.to_line;
    return t >= length ? -1 : walk.first + in_slab + slab * walk.to_slab;
}
#else
#define DIRECTIONS 4
#define GRID int height, width
#define ROW_OF(t, k) row_of(t, k, p.length, p.height, p.width)

// Raster index of the t-th token of direction k, or -1 past the end.
__device__ __forceinline__ int row_of(int t, int k, int length, int height, int width) {
    const int row = (k & 1) ? (t % height) * width + t / height : t;
    return t >= length ? -1 : k >= 2 ? length - 1 - row : row;
}
#endif

// Where a block is.
struct Place {
    int k, chunk, image;
    __device__ __forceinline__ Place() : image(block_z()) {
        const int y = block_y();
#if WALKS
        k = y % DIRECTIONS;
        chunk = y / DIRECTIONS;
#else
        k = y & 3;
        chunk = y >> 2;
#endif
    }
    __device__ __forceinline__ i64 sequence() const { return (i64)image * DIRECTIONS + k; }
};
