// Column sums, for the biases of all layers at once.
//
// The table holds the number of matrices and, from index 1 on, for each matrix: its bf16 values, rows, columns, row
// stride, the two float32 vectors that its sums are added to (the second may be null), and its first block. A block
// handles 64 columns of 512 rows.

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

// With a block of 64 threads for each block above. The blocks of a matrix's first rows add up the sums of all its
// blocks.
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
