// Activations. Each thread handles eight values, and n threads all of them.

// The gradient through ReLU and dropout's scale, given their output.
extern "C" __global__ void relu_backward(bf16* grad, const bf16* output, float scale, long long n) {
    const long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x;
    if (i >= n) {
        return;
    }
    Eight g = load8(grad + 8 * i);
    const Eight y = load8(output + 8 * i);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        g.at[j] = y.at[j] > 0.0f ? g.at[j] * scale : 0.0f;
    }
    store8(grad + 8 * i, g);
}

extern "C" __global__ void multiply(const bf16* a, const bf16* b, bf16* product, long long n) {
    const long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x;
    if (i >= n) {
        return;
    }
    Eight x = load8(a + 8 * i);
    const Eight y = load8(b + 8 * i);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        x.at[j] *= y.at[j];
    }
    store8(product + 8 * i, x);
}

// The gradients of both factors, through the ReLUs that they are the outputs of.
extern "C" __global__ void multiply_backward(const bf16* grad, const bf16* a, const bf16* b, bf16* grad_a, bf16* grad_b,
                                             long long n) {
    const long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x;
    if (i >= n) {
        return;
    }
    const Eight g = load8(grad + 8 * i);
    Eight x = load8(a + 8 * i), y = load8(b + 8 * i);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float of_a = x.at[j] > 0.0f ? g.at[j] * y.at[j] : 0.0f, of_b = y.at[j] > 0.0f ? g.at[j] * x.at[j] : 0.0f;
        x.at[j] = of_a;
        y.at[j] = of_b;
    }
    store8(grad_a + 8 * i, x);
    store8(grad_b + 8 * i, y);
}

// The sum of two, as float32.
extern "C" __global__ void add_to_float(const bf16* a, const bf16* b, float* sum, long long n) {
    const long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x;
    if (i >= n) {
        return;
    }
    Eight x = load8(a + 8 * i);
    const Eight y = load8(b + 8 * i);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        x.at[j] += y.at[j];
    }
    store8(sum + 8 * i, x);
}
