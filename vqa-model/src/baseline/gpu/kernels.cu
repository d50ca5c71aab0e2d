// What a training step in bfloat16 does between its matrix products.
//
// NVRTC compiles this when the program first trains on a GPU; the tests have a C++ compiler do it, and run it on the CPU.
// So there is no more of CUDA in it than what they know: threads of a block that wait for each other, and those of a warp
// that exchange numbers.
//
// Matrices are row by row. Rows of bfloat16 begin at multiples of 16 bytes, and are read eight numbers at a time. All is
// computed in float32. What is added up is added up in one order, so that results are the same every time.

typedef unsigned short bf16;
typedef unsigned long long u64;

#define N_THREADS 256
#define N_WARPS (N_THREADS / 32)

__device__ inline float to_float(bf16 bits) {
    return __uint_as_float((unsigned int)bits << 16);
}

// To the nearest, to even if there are two, as libtorch.
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

// The sum of the numbers of a block's threads, for all of them.
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

// Numbers and addresses that a kernel reads many of.
struct Table {
    u64 at[256];
};

// ---- Weight norm: weight_g * weight_v / norm(weight_v), for all layers at once. ----
//
// Each layer is cut into chunks, a block for each. The table: how many layers; at 1, the first chunk of each, and behind the
// last; from 16 on, for each of eight layers, what FIELD names.

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

// Sums of grad * weight_v, where grad is that of the weight.
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

// ---- Between number types, and with padding. ----

// float32 [rows, columns] to bf16 [rows, padded], zeros behind the columns. A thread for every eight numbers.
extern "C" __global__ void to_bf16_rows(const float* from, bf16* to, long long n_rows, int columns, int padded) {
    const long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x;
    const int eights = padded / 8;
    if (i < n_rows * eights) {
        const long long row = i / eights;
        const int column = (int)(i - row * eights) * 8;
        Eight eight;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            eight.at[j] = column + j < columns ? from[row * columns + column + j] : 0.0f;
        }
        store8(to + row * padded + column, eight);
    }
}

// The columns of bf16 [rows, padded] that are no padding, as float32.
extern "C" __global__ void to_float_rows(const bf16* from, float* to, long long n_rows, int columns, int padded) {
    const long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x;
    if (i < n_rows * columns) {
        const long long row = i / columns;
        to[i] = to_float(from[row * padded + (i - row * columns)]);
    }
}

// Adds them to float32.
extern "C" __global__ void add_rows(const bf16* from, float* to, long long n_rows, int columns, int padded) {
    const long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x;
    if (i < n_rows * columns) {
        const long long row = i / columns;
        to[i] += to_float(from[row * padded + (i - row * columns)]);
    }
}

// ---- Sums of columns, for the biases of all layers at once. ----
//
// The table: how many matrices; from 1 on, for each: its bf16 numbers, rows, columns, numbers from one row to the next, the
// two vectors of float32 that its sums are added to, the second perhaps null, and its first block. A block has 64 columns
// of 512 rows.

#define ROWS_OF_BLOCK 512
#define MATRIX(table, i) ((table).at + 1 + 7 * (i))

__device__ inline int matrix_of(const Table& table, int block) {
    int i = (int)table.at[0] - 1;
    while (block < (int)MATRIX(table, i)[6]) {
        i--;
    }
    return i;
}

extern "C" __global__ void column_sums(Table table, float* partial) {
    __shared__ float sums[32][64];
    const u64* matrix = MATRIX(table, matrix_of(table, blockIdx.x));
    const int n_rows = (int)matrix[1], n_columns = (int)matrix[2];
    const int n_column_blocks = (n_columns + 63) / 64, local = (int)blockIdx.x - (int)matrix[6];
    const int column = local % n_column_blocks * 64 + threadIdx.x % 8 * 8;
    const int lane = threadIdx.x / 8, first = local / n_column_blocks * ROWS_OF_BLOCK;
    Eight sum = zeros8();
    if (column < n_columns) {
#pragma unroll 4
        for (int row = first + lane; row < first + ROWS_OF_BLOCK; row += 32) {
            if (row < n_rows) {
                const Eight eight = load8((const bf16*)matrix[0] + row * (long long)matrix[3] + column);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    sum.at[j] += eight.at[j];
                }
            }
        }
    }
#pragma unroll
    for (int j = 0; j < 8; j++) {
        sums[lane][threadIdx.x % 8 * 8 + j] = sum.at[j];
    }
    __syncthreads();
    if (threadIdx.x < 64) {
        float all = 0.0f;
#pragma unroll
        for (int i = 0; i < 32; i++) {
            all += sums[i][threadIdx.x];
        }
        partial[blockIdx.x * 64 + threadIdx.x] = all;
    }
}

// With a block of 64 threads for each block above; those of a matrix's first rows add up what the others have.
extern "C" __global__ void add_column_sums(Table table, const float* partial) {
    const u64* matrix = MATRIX(table, matrix_of(table, blockIdx.x));
    const int n_rows = (int)matrix[1], n_columns = (int)matrix[2];
    const int n_column_blocks = (n_columns + 63) / 64, local = (int)blockIdx.x - (int)matrix[6];
    const int column = local * 64 + threadIdx.x, n_row_blocks = (n_rows + ROWS_OF_BLOCK - 1) / ROWS_OF_BLOCK;
    if (local >= n_column_blocks || column >= n_columns) {
        return;
    }
    float sum = 0.0f;
    for (int i = 0; i < n_row_blocks; i++) {
        sum += partial[(blockIdx.x + i * n_column_blocks) * 64 + threadIdx.x];
    }
    ((float*)matrix[4])[column] += sum;
    if (matrix[5] != 0) {
        ((float*)matrix[5])[column] += sum;
    }
}

// ---- Words. ----

// A row of bf16 for each word: float32 vectors [words, dim] to [rows, padded].
extern "C" __global__ void embed(const float* vectors, const int* words, bf16* rows, int dim, int padded) {
    const float* vector = vectors + words[blockIdx.x] * (long long)dim;
    bf16* row = rows + blockIdx.x * (long long)padded;
    for (int i = threadIdx.x; i < padded; i += N_THREADS) {
        row[i] = i < dim ? to_bf16(vector[i]) : (bf16)0;
    }
}

// For each row of words, the sum of the gradients at the positions where the row was read: grad is [positions, stride],
// whose columns, the first `width` of them, go round by `shift`.
extern "C" __global__ void sum_by_row(const bf16* grad, const int* positions, const int* starts, bf16* sums, int width,
                                      int stride, int shift) {
    const int column = 8 * (blockIdx.y * N_THREADS + threadIdx.x);
    if (column >= width) {
        return;
    }
    const int shifted = column + shift, from = shifted < width ? shifted : shifted - width;
    Eight sum = zeros8();
#pragma unroll 4
    for (int i = starts[blockIdx.x]; i < starts[blockIdx.x + 1]; i++) {
        const Eight eight = load8(grad + positions[i] * (long long)stride + from);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            sum.at[j] += eight.at[j];
        }
    }
    store8(sums + blockIdx.x * (long long)width + column, sum);
}

// Adds the gradients of rows, [rows, padded], to those of the words that they are of: rows of a word follow each other.
extern "C" __global__ void add_word_gradients(const bf16* grad, const int* starts, const int* words, float* vectors, int dim,
                                              int padded) {
    const int first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    if (first == end) {
        return;
    }
    for (int i = threadIdx.x; i < dim; i += N_THREADS) {
        float sum = 0.0f;
        for (int row = first; row < end; row++) {
            sum += to_float(grad[row * (long long)padded + i]);
        }
        vectors[words[blockIdx.x] * (long long)dim + i] += sum;
    }
}

// ---- Recurrent cells. ----
//
// A step of states of H numbers: of the beginnings of questions that are as long, each of which has one word more than its
// parent, a state of the step before. `from_input` are the products of input weights, a row for each of `rows`, or for each
// state if that is null; `from_state` those of the states before, [states, gates H], null where these are zero. States are
// [states, stride].

__device__ inline float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// As many numbers of a state as a thread has.
#define N_OWN 2

struct Own {
    float at[N_OWN];
};

__device__ inline Own load_own(const bf16* from) {
    const unsigned int both = *(const unsigned int*)from;
    return Own{{__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)}};
}

__device__ inline Own load_own(const float* from) {
    const float2 both = *(const float2*)from;
    return Own{{both.x, both.y}};
}

__device__ inline void store_own(bf16* to, const Own& own) {
    *(unsigned int*)to = (unsigned int)to_bf16(own.at[0]) | (unsigned int)to_bf16(own.at[1]) << 16;
}

__device__ inline void store_own(float* to, const Own& own) {
    *(float2*)to = make_float2(own.at[0], own.at[1]);
}

// Those of a row, or zeros where there is no matrix.
template <class Number>
__device__ inline Own own_of(const Number* matrix, int row, long long stride, int i) {
    return matrix == nullptr ? Own{{0.0f, 0.0f}} : load_own(matrix + row * stride + i);
}

__device__ inline Own sum_of(const Own& a, const Own& b) {
    return Own{{a.at[0] + b.at[0], a.at[1] + b.at[1]}};
}

// The products that go into a state, and the biases: one vector of H for each gate.
struct Inputs {
    const bf16* from_input;
    const bf16* from_state;
    const float* bias_ih;
    const float* bias_hh;
    int dim, i;

    __device__ Own by_input(int gate) const {
        return sum_of(load_own(from_input + gate * dim + i), load_own(bias_ih + gate * dim + i));
    }

    __device__ Own by_state(int gate) const {
        return sum_of(own_of(from_state, gate, dim, i), load_own(bias_hh + gate * dim + i));
    }
};

__device__ inline Inputs inputs_of(int row, int n_gates, const bf16* from_input, const int* rows, const bf16* from_state,
                                   const int* parents, const float* bias_ih, const float* bias_hh, int dim, int i) {
    const long long width = n_gates * (long long)dim;
    return Inputs{from_input + (rows == nullptr ? row : rows[row]) * width,
                  from_state == nullptr ? nullptr : from_state + parents[row] * width, bias_ih, bias_hh, dim, i};
}

struct GruGates {
    Own reset, update, candidate, of_state;
};

__device__ inline GruGates gru_gates(const Inputs& inputs) {
    GruGates gates;
    const Own r = sum_of(inputs.by_input(0), inputs.by_state(0)), z = sum_of(inputs.by_input(1), inputs.by_state(1));
    const Own n = inputs.by_input(2);
    gates.of_state = inputs.by_state(2);
#pragma unroll
    for (int j = 0; j < N_OWN; j++) {
        gates.reset.at[j] = sigmoid(r.at[j]);
        gates.update.at[j] = sigmoid(z.at[j]);
        gates.candidate.at[j] = tanhf(n.at[j] + gates.reset.at[j] * gates.of_state.at[j]);
    }
    return gates;
}

extern "C" __global__ void gru_forward(const bf16* from_input, const int* rows, const bf16* from_state, const int* parents,
                                       const float* bias_ih, const float* bias_hh, const bf16* before, bf16* after,
                                       int n_states, int dim, int stride) {
    const int index = blockIdx.x * N_THREADS + threadIdx.x, row = index / (dim / N_OWN), i = index % (dim / N_OWN) * N_OWN;
    if (row >= n_states) {
        return;
    }
    const GruGates gates =
        gru_gates(inputs_of(row, 3, from_input, rows, from_state, parents, bias_ih, bias_hh, dim, i));
    Own h = own_of(before, before == nullptr ? 0 : parents[row], stride, i);
#pragma unroll
    for (int j = 0; j < N_OWN; j++) {
        h.at[j] = gates.candidate.at[j] + gates.update.at[j] * (h.at[j] - gates.candidate.at[j]);
    }
    store_own(after + row * (long long)stride + i, h);
}

// Of the backward kernels below, a block has a state and 512 of its numbers. Children follow each other, or are those that
// `order` lists; their gradients are `carried`, and `by_product` with the weights. Either may be null. Four lanes of threads
// share the children, and read eight numbers at a time.

#define LANES 4
#define VECTORS (N_THREADS / LANES)

// What the children of a state have, added up: for each thread, its own two numbers.
__device__ inline Own sum_of_children(const float* carried, const bf16* by_product, const int* starts, const int* order,
                                      int dim) {
    __align__(16) __shared__ float room[LANES][8 * VECTORS];
    const int lane = threadIdx.x / VECTORS, vector = threadIdx.x % VECTORS, i = 8 * (blockIdx.y * VECTORS + vector);
    Eight sum = zeros8();
    if (i < dim) {
        for (int k = starts[blockIdx.x] + lane; k < starts[blockIdx.x + 1]; k += LANES) {
            const long long from = (order == nullptr ? k : order[k]) * (long long)dim + i;
            const Eight a = carried == nullptr ? zeros8() : load8(carried + from);
            const Eight b = by_product == nullptr ? zeros8() : load8(by_product + from);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                sum.at[j] += a.at[j] + b.at[j];
            }
        }
    }
    __syncthreads();
    store8(&room[lane][8 * vector], sum);
    __syncthreads();
    Own own = Own{{0.0f, 0.0f}};
#pragma unroll
    for (int j = 0; j < LANES; j++) {
        own = sum_of(own, load_own(&room[j][N_OWN * threadIdx.x]));
    }
    return own;
}

// Writes the gradients of the products: [states, 4 H], first the candidate's by the input, then reset, update, and the
// candidate's by the state; and to `carried_on` that part of the gradient of the parent that does not go through weights.
extern "C" __global__ void gru_backward(const bf16* from_input, const int* rows, const bf16* from_state, const int* parents,
                                        const float* bias_ih, const float* bias_hh, const bf16* before,
                                        const float* carried, const bf16* by_product, const int* starts, const int* order,
                                        const bf16* above, int above_stride, bf16* grads, float* carried_on, int dim,
                                        int stride) {
    Own grad = sum_of_children(carried, by_product, starts, order, dim);
    const int row = blockIdx.x, i = N_OWN * (blockIdx.y * N_THREADS + threadIdx.x);
    if (i >= dim) {
        return;
    }
    const GruGates gates =
        gru_gates(inputs_of(row, 3, from_input, rows, from_state, parents, bias_ih, bias_hh, dim, i));
    const Own h = own_of(before, parents[row], stride, i);
    grad = sum_of(grad, own_of(above, row, above_stride, i));
    Own of_candidate, of_reset, of_update, of_state;
#pragma unroll
    for (int j = 0; j < N_OWN; j++) {
        const float r = gates.reset.at[j], z = gates.update.at[j], n = gates.candidate.at[j];
        of_candidate.at[j] = grad.at[j] * (1.0f - z) * (1.0f - n * n);
        of_update.at[j] = grad.at[j] * (h.at[j] - n) * z * (1.0f - z);
        of_reset.at[j] = of_candidate.at[j] * gates.of_state.at[j] * r * (1.0f - r);
        of_state.at[j] = of_candidate.at[j] * r;
        grad.at[j] *= z;
    }
    bf16* to = grads + row * 4ll * dim + i;
    store_own(to, of_candidate);
    store_own(to + dim, of_reset);
    store_own(to + 2 * dim, of_update);
    store_own(to + 3 * dim, of_state);
    store_own(carried_on + row * (long long)dim + i, grad);
}

// Input, forget, cell and output gate.
struct LstmGates {
    Own input, forget, cell, output;
};

__device__ inline LstmGates lstm_gates(const Inputs& inputs) {
    Own gates[4];
#pragma unroll
    for (int gate = 0; gate < 4; gate++) {
        const Own sum = sum_of(inputs.by_input(gate), inputs.by_state(gate));
#pragma unroll
        for (int j = 0; j < N_OWN; j++) {
            gates[gate].at[j] = gate == 2 ? tanhf(sum.at[j]) : sigmoid(sum.at[j]);
        }
    }
    return LstmGates{gates[0], gates[1], gates[2], gates[3]};
}

// Cells are float32 [states, H]; those before are null in the first step, where they are zero.
extern "C" __global__ void lstm_forward(const bf16* from_input, const int* rows, const bf16* from_state, const int* parents,
                                        const float* bias_ih, const float* bias_hh, const float* cells_before,
                                        float* cells_after, bf16* after, int n_states, int dim, int stride) {
    const int index = blockIdx.x * N_THREADS + threadIdx.x, row = index / (dim / N_OWN), i = index % (dim / N_OWN) * N_OWN;
    if (row >= n_states) {
        return;
    }
    const LstmGates gates =
        lstm_gates(inputs_of(row, 4, from_input, rows, from_state, parents, bias_ih, bias_hh, dim, i));
    Own cell = own_of(cells_before, parents[row], dim, i), h;
#pragma unroll
    for (int j = 0; j < N_OWN; j++) {
        cell.at[j] = gates.forget.at[j] * cell.at[j] + gates.input.at[j] * gates.cell.at[j];
        h.at[j] = gates.output.at[j] * tanhf(cell.at[j]);
    }
    store_own(cells_after + row * (long long)dim + i, cell);
    store_own(after + row * (long long)stride + i, h);
}

// Writes the gradients of the products, [states, 4 H], and to `carried_on` each state's share of the gradient of its
// parent's cell; `carried_cell` are those of the children.
extern "C" __global__ void lstm_backward(const bf16* from_input, const int* rows, const bf16* from_state, const int* parents,
                                         const float* bias_ih, const float* bias_hh, const float* cells_before,
                                         const float* cells_after, const float* carried, const float* carried_cell,
                                         const bf16* by_product, const int* starts, const int* order, const bf16* above,
                                         int above_stride, bf16* grads, float* carried_on, int dim) {
    Own grad = sum_of_children(carried, by_product, starts, order, dim);
    Own of_cell = sum_of_children(carried_cell, nullptr, starts, order, dim);
    const int row = blockIdx.x, i = N_OWN * (blockIdx.y * N_THREADS + threadIdx.x);
    if (i >= dim) {
        return;
    }
    const LstmGates gates =
        lstm_gates(inputs_of(row, 4, from_input, rows, from_state, parents, bias_ih, bias_hh, dim, i));
    const Own before = own_of(cells_before, parents[row], dim, i), after = own_of(cells_after, row, dim, i);
    grad = sum_of(grad, own_of(above, row, above_stride, i));
    Own of_gates[4];
#pragma unroll
    for (int j = 0; j < N_OWN; j++) {
        const float in = gates.input.at[j], forget = gates.forget.at[j], cell = gates.cell.at[j], out = gates.output.at[j];
        const float squashed = tanhf(after.at[j]);
        const float all = of_cell.at[j] + grad.at[j] * out * (1.0f - squashed * squashed);
        of_gates[0].at[j] = all * cell * in * (1.0f - in);
        of_gates[1].at[j] = all * before.at[j] * forget * (1.0f - forget);
        of_gates[2].at[j] = all * in * (1.0f - cell * cell);
        of_gates[3].at[j] = grad.at[j] * squashed * out * (1.0f - out);
        of_cell.at[j] = all * forget;
    }
#pragma unroll
    for (int gate = 0; gate < 4; gate++) {
        store_own(grads + row * 4ll * dim + gate * dim + i, of_gates[gate]);
    }
    store_own(carried_on + row * (long long)dim + i, of_cell);
}

// ---- Dropout: the masks that a CPU draws. ----

struct Dropout {
    unsigned int low, high, threshold;
};

__device__ inline u64 split_mix_64(u64 number) {
    u64 z = number + 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// The mask of a question's row.
__device__ inline Dropout dropout_of(u64 seed, int question, int row, int threshold) {
    const u64 key = split_mix_64(split_mix_64(seed ^ split_mix_64((u64)question)) ^ split_mix_64((u64)row));
    return Dropout{(unsigned int)key, (unsigned int)(key >> 32), (unsigned int)threshold};
}

// Which of 16 columns are kept, as bits: `unit` 2 i has columns 32 i to 32 i + 7 and, from the ninth on, 32 i + 16 to
// 32 i + 23; unit 2 i + 1 those that are eight further on.
__device__ inline unsigned int kept(const Dropout& dropout, int unit) {
    const unsigned int first = unit / 2 * 16 + unit % 2 * 8;
    unsigned int bits = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        unsigned int x = dropout.low + (first + j) * 0x9e3779b9u;
        x ^= (x >> 16) ^ dropout.high;
        x *= 0x7feb352du;
        x ^= x >> 15;
        x *= 0x846ca68bu;
        x ^= x >> 16;
        bits |= (unsigned int)((x & 0xffffu) < dropout.threshold) << j;
        bits |= (unsigned int)((x >> 16) < dropout.threshold) << (8 + j);
    }
    return bits;
}

// The first column of a unit; its ninth is 16 further on.
__device__ inline int first_column(int unit) {
    return unit / 2 * 32 + unit % 2 * 8;
}

struct Sixteen {
    Eight half[2];
};

__device__ inline Sixteen load16(const bf16* row, int unit) {
    const bf16* from = row + first_column(unit);
    return Sixteen{{load8(from), load8(from + 16)}};
}

__device__ inline void store16(bf16* row, int unit, const Sixteen& sixteen) {
    bf16* to = row + first_column(unit);
    store8(to, sixteen.half[0]);
    store8(to + 16, sixteen.half[1]);
}

// Drops entries of [rows, columns], a row for each question, and scales the others. A thread has a unit.
extern "C" __global__ void dropout(bf16* matrix, const u64* seed, int threshold, float scale, int n_rows, int columns) {
    const int n_units = columns / 16, index = blockIdx.x * N_THREADS + threadIdx.x;
    const int row = index / n_units, unit = index % n_units;
    if (row >= n_rows) {
        return;
    }
    // The classifier's masks are independent of attention's.
    const unsigned int bits = kept(dropout_of(split_mix_64(~*seed), row, 0, threshold), unit);
    Sixteen sixteen = load16(matrix + row * (long long)columns, unit);
#pragma unroll
    for (int j = 0; j < 16; j++) {
        float& number = sixteen.half[j / 8].at[j % 8];
        number = bits >> j & 1 ? number * scale : 0.0f;
    }
    store16(matrix + row * (long long)columns, unit, sixteen);
}

// ---- Activations. Eight numbers to each thread, n times eight in all. ----

// The gradient through dropout's scale and ReLU, given what came out of them.
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

// The gradients of both factors, through the ReLUs that they came out of.
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

// The sum of rows of two matrices, [rows, columns] and the second [rows, stride], as float32.
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

// ---- Attention. ----
//
// Regions are [images, K, D], what they are compared by [images, K, A], and that of questions [B, A]. A region's score is
// the sum over A of weight * joint, where dropout keeps it: joint is the product of both, or with CONCAT the ReLU of their
// sum. What came out of a ReLU is nowhere below zero.

#define MAX_REGIONS 1024
#define MAX_DIM 4096

template <bool CONCAT>
__device__ inline float joint(float region, float question) {
    return CONCAT ? fmaxf(region + question, 0.0f) : region * question;
}

// Attention's weights [B, K] and the regions' sums by them, [B, D]. A block for each question.
template <bool CONCAT>
__device__ inline void attend(const bf16* compared, const bf16* questions, const bf16* weight, const bf16* features,
                              const int* image_of, const unsigned char* is_padding, const u64* seed, int threshold,
                              float scale, float* attention, bf16* attended, int n_regions, int dim, int feature_dim) {
    __shared__ float scores[MAX_REGIONS];
    const int question = blockIdx.x, image = image_of[question], warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bf16* of_question = questions + question * (long long)dim;
    for (int k = warp; k < n_regions; k += N_WARPS) {
        const bf16* region = compared + (image * (long long)n_regions + k) * dim;
        const Dropout dropout = dropout_of(*seed, question, k, threshold);
        float sum = 0.0f;
        for (int unit = lane; unit < dim / 16; unit += 32) {
            const Sixteen r = load16(region, unit), q = load16(of_question, unit), w = load16(weight, unit);
            const unsigned int bits = kept(dropout, unit);
#pragma unroll
            for (int j = 0; j < 16; j++) {
                const float term = joint<CONCAT>(r.half[j / 8].at[j % 8], q.half[j / 8].at[j % 8]) * w.half[j / 8].at[j % 8];
                sum += bits >> j & 1 ? term : 0.0f;
            }
        }
        sum = sum_of_warp(sum) * scale;
        if (lane == 0) {
            const bool absent = is_padding != nullptr && is_padding[image * n_regions + k];
            scores[k] = absent ? -3.4028234e38f : sum;
        }
    }
    __syncthreads();
    if (warp == 0) {
        float largest = -3.4028234e38f;
        for (int k = lane; k < n_regions; k += 32) {
            largest = fmaxf(largest, scores[k]);
        }
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) {
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
        }
        float sum = 0.0f;
        for (int k = lane; k < n_regions; k += 32) {
            scores[k] = expf(scores[k] - largest);
            sum += scores[k];
        }
        sum = sum_of_warp(sum);
        for (int k = lane; k < n_regions; k += 32) {
            scores[k] /= sum;
            attention[question * (long long)n_regions + k] = scores[k];
        }
    }
    __syncthreads();
    for (int i = 8 * threadIdx.x; i < feature_dim; i += 8 * N_THREADS) {
        Eight sum = zeros8();
#pragma unroll 4
        for (int k = 0; k < n_regions; k++) {
            const Eight region = load8(features + (image * (long long)n_regions + k) * feature_dim + i);
            const float share = scores[k];
#pragma unroll
            for (int j = 0; j < 8; j++) {
                sum.at[j] += share * region.at[j];
            }
        }
        store8(attended + question * (long long)feature_dim + i, sum);
    }
}

// Given the gradient of the regions' sums: that of the scores, [B, K]; that of what the questions are compared by, [B, A],
// through its ReLU unless CONCAT; and each question's share of that of the weight, [B, A]. A block for each question.
template <bool CONCAT>
__device__ inline void attend_backward(const bf16* grad_attended, const bf16* compared, const bf16* questions,
                                       const bf16* weight, const bf16* features, const int* image_of, const u64* seed,
                                       int threshold, float scale, const float* attention, float* grad_scores,
                                       bf16* grad_questions, bf16* grad_weights, int n_regions, int dim, int feature_dim) {
    __shared__ float scores[MAX_REGIONS];
    __align__(16) __shared__ float room[MAX_DIM > 16 * N_THREADS ? MAX_DIM : 16 * N_THREADS];
    const int question = blockIdx.x, image = image_of[question], warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bf16* of_question = questions + question * (long long)dim;
    for (int i = 8 * threadIdx.x; i < feature_dim; i += 8 * N_THREADS) {
        store8(room + i, load8(grad_attended + question * (long long)feature_dim + i));
    }
    __syncthreads();
    float common = 0.0f;
    for (int k = warp; k < n_regions; k += N_WARPS) {
        const bf16* region = features + (image * (long long)n_regions + k) * feature_dim;
        float sum = 0.0f;
        for (int i = 8 * lane; i < feature_dim; i += 8 * 32) {
            const Eight r = load8(region + i), g = load8(room + i);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                sum += r.at[j] * g.at[j];
            }
        }
        sum = sum_of_warp(sum);
        if (lane == 0) {
            scores[k] = sum;
            common += sum * attention[question * (long long)n_regions + k];
        }
    }
    common = sum_of_block(lane == 0 ? common : 0.0f);
    for (int k = threadIdx.x; k < n_regions; k += N_THREADS) {
        const long long place = question * (long long)n_regions + k;
        scores[k] = (scores[k] - common) * attention[place];
        grad_scores[place] = scores[k];
    }
    __syncthreads();

    // Each group of threads has some of the regions, and each thread of it one unit.
    const int n_units = dim / 16, n_groups = N_THREADS / n_units, group = threadIdx.x / n_units, unit = threadIdx.x % n_units;
    const Sixteen q = load16(of_question, unit);
    Sixteen sums = Sixteen{{zeros8(), zeros8()}}, joints = sums;
    if (group < n_groups) {
        for (int k = group; k < n_regions; k += n_groups) {
            const Sixteen r = load16(compared + (image * (long long)n_regions + k) * dim, unit);
            const unsigned int bits = kept(dropout_of(*seed, question, k, threshold), unit);
            const float score = scores[k];
#pragma unroll
            for (int j = 0; j < 16; j++) {
                const float region = r.half[j / 8].at[j % 8], share = bits >> j & 1 ? score : 0.0f;
                if (CONCAT) {
                    const float both = fmaxf(region + q.half[j / 8].at[j % 8], 0.0f);
                    sums.half[j / 8].at[j % 8] += both > 0.0f ? share : 0.0f;
                    joints.half[j / 8].at[j % 8] += share * both;
                } else {
                    sums.half[j / 8].at[j % 8] += share * region;
                }
            }
        }
    }
    const Sixteen w = load16(weight, unit);
#pragma unroll
    for (int pass = 0; pass < (CONCAT ? 2 : 1); pass++) {
        __syncthreads();
        for (int j = 0; j < 16; j++) {
            room[j * N_THREADS + threadIdx.x] = pass == 0 ? sums.half[j / 8].at[j % 8] : joints.half[j / 8].at[j % 8];
        }
        __syncthreads();
        if (group == 0) {
            Sixteen grad_q, grad_w;
#pragma unroll
            for (int j = 0; j < 16; j++) {
                float sum = 0.0f;
                for (int i = 0; i < n_groups; i++) {
                    sum += room[j * N_THREADS + i * n_units + unit];
                }
                const float of_question = q.half[j / 8].at[j % 8], factor = w.half[j / 8].at[j % 8] * scale;
                const bool passes = CONCAT || of_question > 0.0f;
                grad_q.half[j / 8].at[j % 8] = passes ? sum * factor : 0.0f;
                grad_w.half[j / 8].at[j % 8] = sum * scale * (CONCAT ? 1.0f : of_question);
            }
            if (pass == 0) {
                store16(grad_questions + question * (long long)dim, unit, grad_q);
            }
            if (pass == 1 || !CONCAT) {
                store16(grad_weights + question * (long long)dim, unit, grad_w);
            }
        }
    }
}

// The gradient of what the regions are compared by, [images, K, A], through its ReLU unless CONCAT, from the gradients of the
// scores of all questions about the image. Blocks for images, and for some of their regions each.
template <bool CONCAT>
__device__ inline void region_gradients(const bf16* compared, const bf16* questions, const bf16* weight,
                                        const float* grad_scores, const int* image_starts, const int* image_questions,
                                        const u64* seed, int threshold, float scale, bf16* grad, int n_regions, int dim) {
    const int n_units = dim / 16, n_groups = N_THREADS / n_units, group = threadIdx.x / n_units, unit = threadIdx.x % n_units;
    const int image = blockIdx.x, k = blockIdx.y * n_groups + group;
    if (group >= n_groups || k >= n_regions) {
        return;
    }
    const long long place = (image * (long long)n_regions + k) * dim;
    const Sixteen r = load16(compared + place, unit), w = load16(weight, unit);
    Sixteen sums = Sixteen{{zeros8(), zeros8()}};
    for (int i = image_starts[image]; i < image_starts[image + 1]; i++) {
        const int question = image_questions[i];
        const Sixteen q = load16(questions + question * (long long)dim, unit);
        const unsigned int bits = kept(dropout_of(*seed, question, k, threshold), unit);
        const float score = grad_scores[question * (long long)n_regions + k];
#pragma unroll
        for (int j = 0; j < 16; j++) {
            const float of_question = q.half[j / 8].at[j % 8], share = bits >> j & 1 ? score : 0.0f;
            const float factor = CONCAT ? (r.half[j / 8].at[j % 8] + of_question > 0.0f ? 1.0f : 0.0f) : of_question;
            sums.half[j / 8].at[j % 8] += share * factor;
        }
    }
#pragma unroll
    for (int j = 0; j < 16; j++) {
        const bool passes = CONCAT || r.half[j / 8].at[j % 8] > 0.0f;
        sums.half[j / 8].at[j % 8] = passes ? sums.half[j / 8].at[j % 8] * w.half[j / 8].at[j % 8] * scale : 0.0f;
    }
    store16(grad + place, unit, sums);
}

#define ATTENTION(NAME, CONCAT)                                                                                             \
    extern "C" __global__ void attend_by_##NAME(                                                                            \
        const bf16* compared, const bf16* questions, const bf16* weight, const bf16* features, const int* image_of,         \
        const unsigned char* is_padding, const u64* seed, int threshold, float scale, float* attention, bf16* attended,     \
        int n_regions, int dim, int feature_dim) {                                                                          \
        attend<CONCAT>(compared, questions, weight, features, image_of, is_padding, seed, threshold, scale, attention,      \
                       attended, n_regions, dim, feature_dim);                                                              \
    }                                                                                                                       \
    extern "C" __global__ void attend_by_##NAME##_backward(                                                                 \
        const bf16* grad_attended, const bf16* compared, const bf16* questions, const bf16* weight, const bf16* features,   \
        const int* image_of, const u64* seed, int threshold, float scale, const float* attention, float* grad_scores,       \
        bf16* grad_questions, bf16* grad_weights, int n_regions, int dim, int feature_dim) {                                \
        attend_backward<CONCAT>(grad_attended, compared, questions, weight, features, image_of, seed, threshold, scale,     \
                                attention, grad_scores, grad_questions, grad_weights, n_regions, dim, feature_dim);         \
    }                                                                                                                       \
    extern "C" __global__ void region_gradients_by_##NAME(                                                                  \
        const bf16* compared, const bf16* questions, const bf16* weight, const float* grad_scores, const int* image_starts, \
        const int* image_questions, const u64* seed, int threshold, float scale, bf16* grad, int n_regions, int dim) {      \
        region_gradients<CONCAT>(compared, questions, weight, grad_scores, image_starts, image_questions, seed, threshold,  \
                                 scale, grad, n_regions, dim);                                                              \
    }

ATTENTION(product, false)
ATTENTION(concat, true)
