// Dropout, with the same masks as on a CPU.

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

// Which of the 16 columns of a unit are kept, as bits. Unit 2 i has columns 32 i to 32 i + 7, then 32 i + 16 to
// 32 i + 23; unit 2 i + 1 has the columns eight further on.
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

// The first column of a unit; its ninth column is 16 further on.
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

// Drops entries of [rows, columns], one row per question, and scales the others. One thread per unit.
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
