// Recurrent cells.
//
// A step computes the hidden states, of length H, of beginnings of questions of one length. Each is one word longer
// than its parent, a state of the step before. `from_input` holds the products with the input weights, of which a
// state reads the row in `rows`, or the row of its own index if that is null; `from_state` holds the products of the
// step before's states with the hidden weights, [states, gates H], and is null where these are zero. States are
// [states, stride].

__device__ inline float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// How many elements of a state a thread handles: its own.
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

// A thread's own elements of a row, or zeros if there is no matrix.
template <class Number>
__device__ inline Own own_of(const Number* matrix, int row, long long stride, int i) {
    return matrix == nullptr ? Own{{0.0f, 0.0f}} : load_own(matrix + row * stride + i);
}

__device__ inline Own sum_of(const Own& a, const Own& b) {
    return Own{{a.at[0] + b.at[0], a.at[1] + b.at[1]}};
}

// The products that go into a state, and the biases: one vector of length H for each gate.
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

// In the backward kernels below, a block handles a state and 512 of its elements. The state's children are
// consecutive, or listed in `order`. The gradients that they pass on are `carried`, directly, and `by_product`,
// through the weights; either may be null. Four lanes of threads share the children, and read eight values at a time.

#define LANES 4
#define VECTORS (N_THREADS / LANES)

// The sum of the gradients that the children of a state pass on: for each thread, its own two elements.
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

// Writes the gradients of the pre-activations, [states, 4 H]: first the candidate's input term, then reset, update,
// and the candidate's hidden term; and to `carried_on` the part of the parent's gradient that does not pass through
// the weights.
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

// Cell states are float32 [states, H]; `cells_before` is null in the first step, where they are zero.
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

// Writes the gradients of the pre-activations, [states, 4 H], and to `carried_on` each state's share of the gradient
// of its parent's cell state; `carried_cell` holds the children's shares.
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
