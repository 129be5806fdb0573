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

// Eight bf16 values, each twice in a word, in the order 4m + (0, 2, 1, 3).
__device__ __forceinline__ void widen(uint4 v, u32* to) {
    *(uint4*)to = make_uint4(__byte_perm(v.x, 0, 0x1010), __byte_perm(v.y, 0, 0x1010),
                             __byte_perm(v.x, 0, 0x3232), __byte_perm(v.y, 0, 0x3232));
    *(uint4*)(to + 4) = make_uint4(__byte_perm(v.z, 0, 0x1010), __byte_perm(v.w, 0, 0x1010),
                                   __byte_perm(v.z, 0, 0x3232), __byte_perm(v.w, 0, 0x3232));
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

// delta of two channels from their word: RAW, dt in bf16 still without bias and softplus; else delta itself in fp16.
__device__ __forceinline__ float2 delta_of(u32 word, float2 bias) {
    if (!RAW) return unpack_f16(word);
    const float2 dt = unpack_bf16(word);
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
