// Word vectors.

// Looks up a row of bf16 for each of `words`: float32 vectors [words, dim] to [rows, padded].
extern "C" __global__ void embed(const float* vectors, const int* words, bf16* rows, int dim, int padded) {
    const float* vector = vectors + words[blockIdx.x] * (long long)dim;
    bf16* row = rows + blockIdx.x * (long long)padded;
    for (int i = threadIdx.x; i < padded; i += N_THREADS) {
        row[i] = i < dim ? to_bf16(vector[i]) : (bf16)0;
    }
}

// For each row of words, the sum of the gradients at the positions where the row was read. grad is
// [positions, stride], and its first `width` columns are rotated by `shift`.
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

// Adds the gradients of rows, [rows, padded], to those of their words. The rows of a word are consecutive.
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
