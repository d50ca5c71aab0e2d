// The logistic loss, its gradient and the score of a batch, in one pass over the logits.
//
// NVRTC compiles this when the program first trains on a GPU; the tests use a C++ compiler. Blocks have 256 threads.

#define N_THREADS 256
#define NONE 1e9f

struct Sum {
    __device__ static float of(float a, float b) { return a + b; }
};
struct Largest {
    __device__ static float of(float a, float b) { return fmaxf(a, b); }
};
struct Least {
    __device__ static float of(float a, float b) { return fminf(a, b); }
};

// Reduces the values of a block's threads, and returns the result to each of them.
template <class Operation>
__device__ inline float of_block(float value) {
    __shared__ float values[N_THREADS / 32];
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value = Operation::of(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        values[threadIdx.x / 32] = value;
    }
    __syncthreads();
    float all = values[0];
    for (int i = 1; i < N_THREADS / 32; i++) {
        all = Operation::of(all, values[i]);
    }
    return all;
}

// Logits and their gradient are [questions, n_answers]. `answers` and `scores` list the answers that have a score,
// those of a question from its entry in `starts` to the next one. Writes each question's loss and the score of its
// best answer. One block per question. The gradient is that of the mean loss, in which each question has the weight
// `share`.
extern "C" __global__ void logistic_loss(const float* logits, const int* starts, const long long* answers,
                                         const float* scores, float* grad, float* losses, float* best_scores, int n_answers,
                                         float share) {
    const long long first = blockIdx.x * (long long)n_answers;
    float loss = 0.0f, largest = -3.4028235e38f, best = NONE;
    for (int i = threadIdx.x; i < n_answers; i += N_THREADS) {
        const float x = logits[first + i];
        // As if no answer had a score; those that do follow below.
        const float e = expf(-fabsf(x));
        loss += fmaxf(x, 0.0f) + log1pf(e) + (x - x);
        grad[first + i] = (x >= 0.0f ? 1.0f : e) / (1.0f + e) * share;
        if (x > largest) {
            largest = x;
            best = (float)i;
        }
    }
    loss = of_block<Sum>(loss);
    const float of_all = of_block<Largest>(largest);
    best = of_block<Least>(largest == of_all ? best : NONE);
    if (threadIdx.x == 0) {
        float best_score = 0.0f;
        for (int i = starts[blockIdx.x]; i < starts[blockIdx.x + 1]; i++) {
            loss -= logits[first + answers[i]] * scores[i];
            grad[first + answers[i]] -= scores[i] * share;
            best_score += (float)answers[i] == best ? scores[i] : 0.0f;
        }
        losses[blockIdx.x] = loss;
        best_scores[blockIdx.x] = best_score;
    }
}

// The mean loss, and the sum of the best answers' scores. One block.
extern "C" __global__ void sum_losses(const float* losses, const float* best_scores, double* sums, int n_questions) {
    __shared__ double of_threads[2][N_THREADS];
    double loss = 0.0, score = 0.0;
    for (int i = threadIdx.x; i < n_questions; i += N_THREADS) {
        loss += losses[i];
        score += best_scores[i];
    }
    of_threads[0][threadIdx.x] = loss;
    of_threads[1][threadIdx.x] = score;
    __syncthreads();
    if (threadIdx.x < 2) {
        double sum = 0.0;
        for (int i = 0; i < N_THREADS; i++) {
            sum += of_threads[threadIdx.x][i];
        }
        sums[threadIdx.x] = threadIdx.x == 0 ? sum / n_questions : sum;
    }
}
