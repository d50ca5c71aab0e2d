// Attention.
//
// Regions are [images, K, D], their projections (`compared`) [images, K, A], and the questions' projections [B, A]. A
// region's score is the sum over A of weight * joint, where dropout keeps it: joint is the product of both
// projections, or with CONCAT the ReLU of their sum. Outputs of a ReLU are never negative.

#define MAX_REGIONS 1024
#define MAX_DIM 4096

template <bool CONCAT>
__device__ inline float joint(float region, float question) {
    return CONCAT ? fmaxf(region + question, 0.0f) : region * question;
}

// The attention weights, [B, K], and the sums of the regions with these weights, [B, D]. One block per question.
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

// Given the gradient of the weighted sums, the gradients of the scores, [B, K], and of the questions' projections,
// [B, A], through their ReLU unless CONCAT, and each question's share of the gradient of the weight, [B, A]. One block
// per question.
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

    // Each group of threads handles some of the regions, and each of its threads one unit.
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

// The gradient of the regions' projections, [images, K, A], through their ReLU unless CONCAT, from the gradients of the
// scores of all questions about an image. Each block handles some of the regions of one image.
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
