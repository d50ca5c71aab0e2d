// Conversions between number types, with padding.

// float32 [rows, columns] to bf16 [rows, padded], with zeros after the columns. One thread for every eight values.
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

// The columns of bf16 [rows, padded] that are not padding, as float32.
extern "C" __global__ void to_float_rows(const bf16* from, float* to, long long n_rows, int columns, int padded) {
    const long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x;
    if (i < n_rows * columns) {
        const long long row = i / columns;
        to[i] = to_float(from[row * padded + (i - row * columns)]);
    }
}

// Adds these columns to float32 [rows, columns].
extern "C" __global__ void add_rows(const bf16* from, float* to, long long n_rows, int columns, int padded) {
    const long long i = blockIdx.x * (long long)N_THREADS + threadIdx.x;
    if (i < n_rows * columns) {
        const long long row = i / columns;
        to[i] += to_float(from[row * padded + (i - row * columns)]);
    }
}
