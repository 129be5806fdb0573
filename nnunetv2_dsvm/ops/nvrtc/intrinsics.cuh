// The instructions that the kernels use, and CUDA C++ has no words for. Compiled by NVRTC without any header.
// tests/cuda_emulation.h says the same in C++, so that the kernels run, slowly, on a CPU.

typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;

#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]

__device__ __forceinline__ float exp2_(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two values in the 16-bit types: the first in the low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

__device__ __forceinline__ float2 unpack_f16(u32 word) {
    float2 v;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(v.x), "=f"(v.y) : "r"(word));
    return v;
}

// 16 bytes to shared memory, zeros unless `exists`.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool exists) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(exists ? 16 : 0) : "memory");
}

// Two, or three, in one statement so that their addresses are not computed in the same registers: a copy holds its
// address until it is under way.
__device__ __forceinline__ void copy_async2(void* to0, const void* from0, void* to1, const void* from1, bool exists) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %4;\n"
                 "cp.async.cg.shared.global [%2], [%3], 16, %4;"
                 :: "r"((u32)__cvta_generic_to_shared(to0)), "l"(from0), "r"((u32)__cvta_generic_to_shared(to1)),
                    "l"(from1), "r"(exists ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void copy_async3(void* to0, const void* from0, void* to1, const void* from1, void* to2,
                                            const void* from2, bool exists) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %6;\n"
                 "cp.async.cg.shared.global [%2], [%3], 16, %6;\n"
                 "cp.async.cg.shared.global [%4], [%5], 16, %6;"
                 :: "r"((u32)__cvta_generic_to_shared(to0)), "l"(from0), "r"((u32)__cvta_generic_to_shared(to1)),
                    "l"(from1), "r"((u32)__cvta_generic_to_shared(to2)), "l"(from2), "r"(exists ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// a b + c, 16 x 8 x 8; a by lanes (rows g, g + 8; columns q, q + 4), b (rows q, q + 4; column g), c (columns 2q and one
// more).
__device__ __forceinline__ float4 multiply_tf32(float a0, float a1, float a2, float a3, float b0, float b1, float4 c) {
    float4 d;
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d.x), "=f"(d.y), "=f"(d.z), "=f"(d.w)
        : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)), "r"(__float_as_uint(a3)),
          "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)), "f"(c.x), "f"(c.y), "f"(c.z), "f"(c.w));
    return d;
}

// The same in bf16; a by lanes (rows g, g + 8; columns 2q, 2q + 1), b (rows 2q, 2q + 1; column g).
__device__ __forceinline__ float4 multiply_bf16(u32 a0, u32 a1, u32 b, float4 c) {
    float4 d;
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
        : "=f"(d.x), "=f"(d.y), "=f"(d.z), "=f"(d.w)
        : "r"(a0), "r"(a1), "r"(b), "f"(c.x), "f"(c.y), "f"(c.z), "f"(c.w));
    return d;
}

// An 8 x 8 matrix of 16-bit values, lane (g, q) holding row g, columns 2q and 2q + 1, turned over its diagonal.
__device__ __forceinline__ u32 transpose(u32 word) {
    u32 turned;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(word));
    return turned;
}

__device__ __forceinline__ void keep_one(int& v) { asm volatile("" : "+r"(v)); }
__device__ __forceinline__ void keep_one(u32& v) { asm volatile("" : "+r"(v)); }
__device__ __forceinline__ void keep_one(i64& v) { asm volatile("" : "+l"(v)); }

// Keeps the values in registers: the compiler would rather compute those of a lane again in every group of tokens.
template <class... T>
__device__ __forceinline__ void keep(T&... values) {
    (keep_one(values), ...);
}

// Block and thread indices, asked for again wherever they are used: kept in registers over an interval they would be spilled, and
// come back at the price of a load from global memory.
__device__ __forceinline__ int block_y() {
    int y;
    asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(y));
    return y;
}

__device__ __forceinline__ int block_z() {
    int z;
    asm volatile("mov.u32 %0, %%ctaid.z;" : "=r"(z));
    return z;
}

__device__ __forceinline__ int thread_x() {
    int x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}
