// What a training step in bfloat16 does between its matrix products.
//
// NVRTC compiles this file, followed by the others here, when the program first trains on a GPU; the tests compile
// them with a C++ compiler and run them on the CPU. So threads cooperate only in the ways that both support: barriers
// within a block, and shuffles within a warp.
//
// Matrices are row-major. Rows of bfloat16 begin at multiples of 16 bytes, and are read eight values at a time. All
// arithmetic is in float32. Sums are computed in a fixed order, so that results are the same every time.

typedef unsigned short bf16;
typedef unsigned long long u64;

#define N_THREADS 256
#define N_WARPS (N_THREADS / 32)

__device__ inline float to_float(bf16 bits) {
    return __uint_as_float((unsigned int)bits << 16);
}

// Rounds to nearest, ties to even, as libtorch does.
__device__ inline bf16 to_bf16(float value) {
    const unsigned int bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fffu;
    }
    return (bf16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

struct Eight {
    float at[8];
};

__device__ inline Eight load8(const bf16* from) {
    const uint4 raw = *(const uint4*)from;
    const unsigned int words[4] = {raw.x, raw.y, raw.z, raw.w};
    Eight eight;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        eight.at[2 * i] = __uint_as_float(words[i] << 16);
        eight.at[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
    return eight;
}

__device__ inline void store8(bf16* to, const Eight& eight) {
    unsigned int words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        words[i] = (unsigned int)to_bf16(eight.at[2 * i]) | (unsigned int)to_bf16(eight.at[2 * i + 1]) << 16;
    }
    *(uint4*)to = make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ inline Eight load8(const float* from) {
    const float4 a = *(const float4*)from, b = *(const float4*)(from + 4);
    return Eight{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ inline void store8(float* to, const Eight& eight) {
    *(float4*)to = make_float4(eight.at[0], eight.at[1], eight.at[2], eight.at[3]);
    *(float4*)(to + 4) = make_float4(eight.at[4], eight.at[5], eight.at[6], eight.at[7]);
}

__device__ inline Eight zeros8() {
    return Eight{{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
}

__device__ inline float sum_of_warp(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}

// The sum of the values of a block's threads, returned to each of them.
__device__ inline float sum_of_block(float value) {
    __shared__ float sums[N_WARPS];
    value = sum_of_warp(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = value;
    }
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N_WARPS; i++) {
        sum += sums[i];
    }
    return sum;
}

// Sizes and addresses, for kernels that need many of them.
struct Table {
    u64 at[256];
};
