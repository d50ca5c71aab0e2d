// Weight norm: weight_g * weight_v / norm(weight_v), for all layers at once.
//
// Each layer is cut into chunks, with one block for each. The table holds the number of layers; from index 1 on, the
// first chunk of each layer, and the end of the last; and from index 16 on, the fields below, each for up to eight
// layers.

#define CHUNK 8192
#define FIELD(table, i, layer) (table).at[16 + 8 * (i) + (layer)]
#define WEIGHT_V 0
#define WEIGHT_G 1
#define N_WEIGHTS 2
#define WEIGHT 3         // bf16, with rows of zeros at its end
#define N_PADDED 4       // its length
#define BIAS 5
#define N_BIASES 6
#define BIAS_ROUNDED 7   // bf16, with zeros at its end
#define N_BIASES_PADDED 8
#define GRAD_WEIGHT 9    // bf16
#define GRAD_WEIGHT_V 10
#define GRAD_WEIGHT_G 11

__device__ inline int layer_of(const Table& table, int chunk) {
    int layer = 0;
    while (chunk >= (int)table.at[2 + layer]) {
        layer++;
    }
    return layer;
}

// The sum over a layer's chunks.
__device__ inline float sum_of_layer(const Table& table, int layer, const float* sums) {
    float sum = 0.0f;
    for (int i = (int)table.at[1 + layer] + threadIdx.x; i < (int)table.at[2 + layer]; i += N_THREADS) {
        sum += sums[i];
    }
    return sum_of_block(sum);
}

extern "C" __global__ void square_sums(Table table, float* sums) {
    const int layer = layer_of(table, blockIdx.x);
    const float* weight_v = (const float*)FIELD(table, WEIGHT_V, layer);
    const long long n = (long long)FIELD(table, N_WEIGHTS, layer);
    const long long first = (long long)(blockIdx.x - (unsigned int)table.at[1 + layer]) * CHUNK;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < CHUNK / (4 * N_THREADS); j++) {
        const long long i = first + 4 * (j * N_THREADS + threadIdx.x);
        if (i < n) {
            const float4 v = *(const float4*)(weight_v + i);
            sum += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
        }
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
    }
}

extern "C" __global__ void normed_weights(Table table, const float* sums, float* norms) {
    const int layer = layer_of(table, blockIdx.x);
    const float* weight_v = (const float*)FIELD(table, WEIGHT_V, layer);
    bf16* weight = (bf16*)FIELD(table, WEIGHT, layer);
    const long long n = (long long)FIELD(table, N_WEIGHTS, layer), n_padded = (long long)FIELD(table, N_PADDED, layer);
    const int local = (int)blockIdx.x - (int)table.at[1 + layer];
    const float norm = sqrtf(sum_of_layer(table, layer, sums));
    const float scale = *(const float*)FIELD(table, WEIGHT_G, layer) / norm;
    if (local == 0) {
        if (threadIdx.x == 0) {
            norms[layer] = norm;
        }
        const float* bias = (const float*)FIELD(table, BIAS, layer);
        bf16* rounded = (bf16*)FIELD(table, BIAS_ROUNDED, layer);
        const int n_biases = (int)FIELD(table, N_BIASES, layer);
        for (int i = threadIdx.x; i < (int)FIELD(table, N_BIASES_PADDED, layer); i += N_THREADS) {
            rounded[i] = i < n_biases ? to_bf16(bias[i]) : (bf16)0;
        }
    }
#pragma unroll
    for (int j = 0; j < CHUNK / (4 * N_THREADS); j++) {
        const long long i = (long long)local * CHUNK + 4 * (j * N_THREADS + threadIdx.x);
        if (i < n_padded) {
            const float4 v = i < n ? *(const float4*)(weight_v + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            *(ushort4*)(weight + i) =
                make_ushort4(to_bf16(v.x * scale), to_bf16(v.y * scale), to_bf16(v.z * scale), to_bf16(v.w * scale));
        }
    }
}

// Sums of grad * weight_v, where grad is the gradient of the weight.
extern "C" __global__ void product_sums(Table table, float* sums) {
    const int layer = layer_of(table, blockIdx.x);
    const float* weight_v = (const float*)FIELD(table, WEIGHT_V, layer);
    const bf16* grad = (const bf16*)FIELD(table, GRAD_WEIGHT, layer);
    const long long n = (long long)FIELD(table, N_WEIGHTS, layer);
    const long long first = (long long)(blockIdx.x - (unsigned int)table.at[1 + layer]) * CHUNK;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < CHUNK / (4 * N_THREADS); j++) {
        const long long i = first + 4 * (j * N_THREADS + threadIdx.x);
        if (i < n) {
            const float4 v = *(const float4*)(weight_v + i);
            const ushort4 g = *(const ushort4*)(grad + i);
            sum += (to_float(g.x) * v.x + to_float(g.y) * v.y) + (to_float(g.z) * v.z + to_float(g.w) * v.w);
        }
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
    }
}

// Adds to the gradients of weight_v and weight_g.
extern "C" __global__ void add_weight_gradients(Table table, const float* sums, const float* norms) {
    const int layer = layer_of(table, blockIdx.x);
    const float* weight_v = (const float*)FIELD(table, WEIGHT_V, layer);
    const bf16* grad = (const bf16*)FIELD(table, GRAD_WEIGHT, layer);
    float* grad_v = (float*)FIELD(table, GRAD_WEIGHT_V, layer);
    const long long n = (long long)FIELD(table, N_WEIGHTS, layer);
    const int local = (int)blockIdx.x - (int)table.at[1 + layer];
    const float product = sum_of_layer(table, layer, sums), norm = norms[layer];
    const float scale = *(const float*)FIELD(table, WEIGHT_G, layer) / norm;
    const float towards_v = -scale * product / (norm * norm);
    if (local == 0 && threadIdx.x == 0) {
        *(float*)FIELD(table, GRAD_WEIGHT_G, layer) += product / norm;
    }
#pragma unroll
    for (int j = 0; j < CHUNK / (4 * N_THREADS); j++) {
        const long long i = (long long)local * CHUNK + 4 * (j * N_THREADS + threadIdx.x);
        if (i < n) {
            const float4 v = *(const float4*)(weight_v + i);
            const ushort4 g = *(const ushort4*)(grad + i);
            float4 sum = *(const float4*)(grad_v + i);
            sum.x += scale * to_float(g.x) + towards_v * v.x;
            sum.y += scale * to_float(g.y) + towards_v * v.y;
            sum.z += scale * to_float(g.z) + towards_v * v.z;
            sum.w += scale * to_float(g.w) + towards_v * v.w;
            *(float4*)(grad_v + i) = sum;
        }
    }
}
