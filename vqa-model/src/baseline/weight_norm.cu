// Weights with weight norm in bfloat16, weight_g * weight_v / norm(weight_v), and their backward pass.
//
// What the program carries is weight_norm.ptx, which the GPU's driver compiles when the program runs. It was made of this
// by CUDA 13.0, and .version and .target lowered by hand to 6.0 and sm_50, for there is nothing newer in it:
//
//     nvcc -ptx -arch=compute_75 weight_norm.cu
//
// All kernels have blocks of 256 threads. A sum over a weight is first one number a block, then each block that needs it
// adds these up, all in the same order: the result is the same every time.

#define N_THREADS 256

__device__ float to_float(unsigned short bits) {
    return __uint_as_float((unsigned int)bits << 16);
}

// To the nearest, to even if there are two, as libtorch.
__device__ unsigned short to_bf16(float value) {
    const unsigned int bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fffu;
    }
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The sum of the numbers of a block's threads, for all of them.
__device__ float sum_of_block(float value) {
    __shared__ float sums[N_THREADS];
    sums[threadIdx.x] = value;
    __syncthreads();
#pragma unroll 1
    for (int half = N_THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
        }
        __syncthreads();
    }
    return sums[0];
}

__device__ float sum_of(const float* numbers, long long n) {
    float sum = 0.0f;
#pragma unroll 1
    for (long long i = threadIdx.x; i < n; i += N_THREADS) {
        sum += numbers[i];
    }
    return sum_of_block(sum);
}

// The sum of squares of each block's share of weight_v. n is a quarter of its length, here and below.
extern "C" __global__ void square_sums(const float4* weight_v, float* sums, long long n) {
    float sum = 0.0f;
#pragma unroll 1
    for (long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x; i < n; i += gridDim.x * (long long)N_THREADS) {
        const float4 v = weight_v[i];
        sum += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
    }
}

// The weight, and the norm of weight_v.
extern "C" __global__ void normed_weight(const float4* weight_v, const float* weight_g, const float* sums,
                                         long long n_sums, float* norm, ushort4* weight, long long n) {
    const float of_v = sqrtf(sum_of(sums, n_sums));
    const float scale = *weight_g / of_v;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *norm = of_v;
    }
#pragma unroll 1
    for (long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x; i < n; i += gridDim.x * (long long)N_THREADS) {
        const float4 v = weight_v[i];
        weight[i] = make_ushort4(to_bf16(v.x * scale), to_bf16(v.y * scale), to_bf16(v.z * scale), to_bf16(v.w * scale));
    }
}

// The sum of each block's share of grad * weight_v, where grad is that of the weight.
extern "C" __global__ void product_sums(const ushort4* grad, const float4* weight_v, float* sums, long long n) {
    float sum = 0.0f;
#pragma unroll 1
    for (long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x; i < n; i += gridDim.x * (long long)N_THREADS) {
        const float4 v = weight_v[i];
        const ushort4 g = grad[i];
        sum += (to_float(g.x) * v.x + to_float(g.y) * v.y) + (to_float(g.z) * v.z + to_float(g.w) * v.w);
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
    }
}

// Adds to the gradients of weight_v and weight_g.
extern "C" __global__ void add_gradients(const ushort4* grad, const float4* weight_v, const float* weight_g,
                                         const float* norm, const float* sums, long long n_sums, float4* grad_v,
                                         float* grad_g, long long n) {
    const float product = sum_of(sums, n_sums), of_v = *norm, scale = *weight_g / of_v;
    const float towards_v = -scale * product / (of_v * of_v);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *grad_g += product / of_v;
    }
#pragma unroll 1
    for (long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x; i < n; i += gridDim.x * (long long)N_THREADS) {
        const float4 v = weight_v[i];
        const ushort4 g = grad[i];
        float4 sum = grad_v[i];
        sum.x += scale * to_float(g.x) + towards_v * v.x;
        sum.y += scale * to_float(g.y) + towards_v * v.y;
        sum.z += scale * to_float(g.z) + towards_v * v.z;
        sum.w += scale * to_float(g.w) + towards_v * v.w;
        grad_v[i] = sum;
    }
}
