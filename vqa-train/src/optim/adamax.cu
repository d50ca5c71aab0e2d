// Clips the gradients, makes a step of Adamax and zeroes the gradients, in one pass over memory.
//
// NVRTC compiles this when the program first trains on a GPU.

// Each thread makes a step of four parameters. norm: the norm of all gradients, or null if they are not clipped.
extern "C" __global__ void adamax(float4* parameters, float4* gradients, float4* exp_avg, float4* exp_inf,
                                  const float* norm, const float* step_size, float max_norm, float weight_decay,
                                  float towards, float beta2, float eps, long long n) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= n) {
        return;
    }
    float scale = 1.0f;
    if (norm != nullptr) {
        // NaN stays NaN.
        const float wanted = max_norm / (*norm + 1e-6f);
        scale = wanted > 1.0f ? 1.0f : wanted;
    }
    const float step = *step_size;
    float4 p4 = parameters[i], g4 = gradients[i], m4 = exp_avg[i], u4 = exp_inf[i];
    float *p = &p4.x, *g = &g4.x, *m = &m4.x, *u = &u4.x;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float gradient = g[j] * scale + weight_decay * p[j];
        m[j] += towards * (gradient - m[j]);
        const float before = u[j] * beta2, now = fabsf(gradient) + eps;
        u[j] = before > now ? before : now;
        p[j] -= step * (m[j] / u[j]);
    }
    parameters[i] = p4;
    exp_avg[i] = m4;
    exp_inf[i] = u4;
    gradients[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}
