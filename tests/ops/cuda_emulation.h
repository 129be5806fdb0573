// What `intrinsics.cuh` gives the CUDA C++ kernels, and what CUDA itself does, in C++ for a CPU: one thread for each
// thread of a block, barriers for __syncthreads and __syncwarp, and the operations of a warp by way of memory. Threads wait at
// random, so that what only a barrier keeps in order gets out of order where the barrier is missing.
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SHARED_MEMORY(name) unsigned char* const name = emulated_shared

using std::max;
using std::min;
typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint2 { u32 x, y; };
struct uint4 { u32 x, y, z, w; };
struct Index { int x, y, z; };
struct Lanes { pthread_barrier_t barrier; u32 words[32][6]; };
struct Votes { pthread_barrier_t barrier; std::vector<char> of_threads; };

thread_local Index threadIdx, blockIdx, gridDim;
thread_local Lanes* emulated_warp;
thread_local Votes* emulated_block;
thread_local unsigned char* emulated_shared;
thread_local std::minstd_rand emulated_random;

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float __uint_as_float(u32 u) { float f; memcpy(&f, &u, 4); return f; }
inline u32 __float_as_uint(float f) { u32 u; memcpy(&u, &f, 4); return u; }

inline u32 __byte_perm(u32 a, u32 b, u32 selector) {
    const uint64_t bytes = (uint64_t)b << 32 | a;
    u32 result = 0;
    for (int i = 0; i < 4; ++i) result |= (u32)(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return result;
}

inline void wait_at(pthread_barrier_t* barrier) {
    const u32 random = emulated_random();
    if (random % 4096 < 4) usleep(200);
    else if (random % 8 == 0) sched_yield();
    pthread_barrier_wait(barrier);
}

inline void __syncthreads() { wait_at(&emulated_block->barrier); }
inline void __syncwarp() { wait_at(&emulated_warp->barrier); }

// f(words of all lanes), after each lane has given its own.
template <int N, class F>
auto exchange(const u32 (&own)[N], F f) {
    memcpy(emulated_warp->words[threadIdx.x & 31], own, sizeof(own));
    __syncwarp();
    const auto result = f(emulated_warp->words);
    __syncwarp();
    return result;
}

inline bool __any_sync(u32, bool vote) {
    return exchange({(u32)vote}, [](auto& words) {
        return std::any_of(words, words + 32, [](auto& lane) { return lane[0] != 0; });
    });
}

inline bool __syncthreads_or(bool vote) {
    auto& votes = emulated_block->of_threads;
    votes[threadIdx.x] = vote;
    __syncthreads();
    const bool any = std::any_of(votes.begin(), votes.end(), [](char of_thread) { return of_thread; });
    __syncthreads();
    return any;
}

inline float __shfl_xor_sync(u32, float v, int distance) {
    const int other = (threadIdx.x & 31) ^ distance;
    return exchange({__float_as_uint(v)}, [&](auto& words) { return __uint_as_float(words[other][0]); });
}

inline int block_y() { return blockIdx.y; }
inline int block_z() { return blockIdx.z; }
inline int thread_x() { return threadIdx.x; }
template <class... T> void keep(T&...) {}
inline float exp2_(float x) { return exp2f(x); }
inline float log2_(float x) { return log2f(x); }

inline u32 bf16(float f) {
    const u32 u = __float_as_uint(f);
    return f != f ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

inline float f16(u16 bits) { _Float16 v; memcpy(&v, &bits, 2); return (float)v; }
inline u32 pack_bf16(float low, float high) { return bf16(low) | bf16(high) << 16; }
inline u16 f16_bits(float f) { const _Float16 v = f; u16 bits; memcpy(&bits, &v, 2); return bits; }
inline u32 pack_f16(float low, float high) { return f16_bits(low) | (u32)f16_bits(high) << 16; }
inline float2 unpack_f16(u32 word) { return {f16(word & 0xffff), f16(word >> 16)}; }

inline void copy_async(void* to, const void* from, bool exists) { exists ? memcpy(to, from, 16) : memset(to, 0, 16); }
inline void copy_async2(void* to0, const void* from0, void* to1, const void* from1, bool exists) {
    copy_async(to0, from0, exists);
    copy_async(to1, from1, exists);
}
inline void copy_async3(void* to0, const void* from0, void* to1, const void* from1, void* to2, const void* from2,
                        bool exists) {
    copy_async2(to0, from0, to1, from1, exists);
    copy_async(to2, from2, exists);
}
inline void commit_copies() {}
inline void wait_for_copies() {}

// c + the product of a(row, k) and b(k, column), this lane's part of 16 x 8.
template <class A, class B>
float4 multiply(A a, B b, float4 c) {
    const int g = (threadIdx.x & 31) >> 2, q = threadIdx.x & 3;
    float d[4] = {c.x, c.y, c.z, c.w};
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 8; ++k) d[i] += a(g + 8 * (i >> 1), k) * b(k, 2 * q + (i & 1));
    return {d[0], d[1], d[2], d[3]};
}

inline float4 multiply_tf32(float a0, float a1, float a2, float a3, float b0, float b1, float4 c) {
    const float own[6] = {a0, a1, a2, a3, b0, b1};
    u32 bits[6];
    memcpy(bits, own, sizeof(bits));
    return exchange(bits, [&](auto& words) {
        auto tf32 = [](u32 word) { return __uint_as_float(word & 0xffffe000u); };
        return multiply([&](int row, int k) { return tf32(words[row % 8 * 4 + k % 4][row / 8 + 2 * (k / 4)]); },
                        [&](int k, int column) { return tf32(words[column * 4 + k % 4][4 + k / 4]); }, c);
    });
}

inline float4 multiply_bf16(u32 a0, u32 a1, u32 b, float4 c) {
    return exchange({a0, a1, b}, [&](auto& words) {
        auto half = [](u32 word, int k) { return __uint_as_float(k & 1 ? word & 0xffff0000u : word << 16); };
        return multiply([&](int row, int k) { return half(words[row % 8 * 4 + k / 2][row / 8], k); },
                        [&](int k, int column) { return half(words[column * 4 + k / 2][2], k); }, c);
    });
}

inline u32 transpose(u32 word) {
    return exchange({word}, [](auto& words) {
        const int g = (threadIdx.x & 31) >> 2, q = threadIdx.x & 3;
        auto entry = [&](int row, int column) { return words[row * 4 + column / 2][0] >> 16 * (column & 1) & 0xffff; };
        return entry(2 * q, g) | entry(2 * q + 1, g) << 16;
    });
}

// Runs `kernel` for a grid; shared memory is full of NaNs at first.
template <class Block, class Kernel, class Arguments>
void launch(Index grid, int threads, Kernel kernel, const Arguments& arguments) {
    for (int i = 0; i < grid.x * grid.y * grid.z; ++i) {
        const Index index = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
        std::vector<uint4> shared(sizeof(Block) / 16 + 1, uint4{~0u, ~0u, ~0u, ~0u});
        Votes votes{{}, std::vector<char>(threads)};
        pthread_barrier_init(&votes.barrier, nullptr, threads);
        std::vector<Lanes> warps(threads / 32);
        for (auto& warp : warps) pthread_barrier_init(&warp.barrier, nullptr, 32);
        std::vector<std::thread> all;
        for (int t = 0; t < threads; ++t)
            all.emplace_back([&, t] {
                threadIdx = {t, 0, 0}, blockIdx = index, gridDim = grid;
                emulated_warp = &warps[t / 32], emulated_block = &votes;
                emulated_shared = (unsigned char*)shared.data();
                emulated_random.seed(1 + t / 32 + 1000 * i);
                kernel(arguments);
            });
        for (auto& thread : all) thread.join();
    }
}
