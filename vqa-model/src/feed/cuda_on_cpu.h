// As much of CUDA as our kernels use, emulated on a CPU in a single thread, for their tests. Threads of a block are
// fibres: each runs until it waits for others.

#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __shared__ static
#define __align__ alignas

struct uint4 {
    unsigned int x, y, z, w;
};
struct ushort4 {
    unsigned short x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};
struct float2 {
    float x, y;
};

static uint4 make_uint4(unsigned int x, unsigned int y, unsigned int z, unsigned int w) { return {x, y, z, w}; }
static ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z, unsigned short w) { return {x, y, z, w}; }
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static unsigned int __float_as_uint(float value) {
    unsigned int bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static float __uint_as_float(unsigned int bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

struct Index {
    unsigned int x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

// A fibre begins in a context of its own, once; from then on it is entered and left by long jumps, which need no system
// calls.
static const int MAX_THREADS = 256, STACK = 1 << 16;
static ucontext_t contexts[MAX_THREADS];
static char stacks[MAX_THREADS][STACK];
static jmp_buf scheduler, fibres[MAX_THREADS];
static bool has_begun[MAX_THREADS], is_done[MAX_THREADS];

static void give_way() {
    if (_setjmp(fibres[threadIdx.x]) == 0) {
        _longjmp(scheduler, 1);
    }
}

// Threads that wait for each other: those of a block, or of a warp. Threads that have returned are not waited for.
struct Barrier {
    int n_running, n_waiting, round;

    void release() {
        if (n_waiting == n_running) {
            n_waiting = 0;
            round++;
        }
    }

    void wait() {
        const int before = round;
        n_waiting++;
        release();
        while (round == before) {
            give_way();
        }
    }

    void leave() {
        n_running--;
        release();
    }
};
static Barrier barrier_of_block, barriers_of_warps[MAX_THREADS / 32];

static void __syncthreads() { barrier_of_block.wait(); }

static float __shfl_xor_sync(unsigned int, float value, int distance) {
    static float values[MAX_THREADS];
    Barrier& warp = barriers_of_warps[threadIdx.x / 32];
    values[threadIdx.x] = value;
    warp.wait();
    const float other = values[threadIdx.x ^ distance];
    warp.wait();
    return other;
}

static void (*call)(void**);
static void** arguments;

static void fibre() {
    for (;;) {
        call(arguments);
        is_done[threadIdx.x] = true;
        barrier_of_block.leave();
        barriers_of_warps[threadIdx.x / 32].leave();
        give_way();
    }
}

static void resume(unsigned int i) {
    threadIdx = {i, 0, 0};
    if (_setjmp(scheduler) != 0) {
        return;
    }
    if (has_begun[i]) {
        _longjmp(fibres[i], 1);
    }
    has_begun[i] = true;
    getcontext(&contexts[i]);
    contexts[i].uc_stack.ss_sp = stacks[i];
    contexts[i].uc_stack.ss_size = STACK;
    makecontext(&contexts[i], fibre, 0);
    setcontext(&contexts[i]);
}

static void run_block(int n_threads) {
    barrier_of_block = {n_threads, 0, 0};
    for (int warp = 0; 32 * warp < n_threads; warp++) {
        barriers_of_warps[warp] = {n_threads - 32 * warp < 32 ? n_threads - 32 * warp : 32, 0, 0};
    }
    memset(is_done, 0, sizeof is_done);
    for (int n_done = 0; n_done < n_threads;) {
        n_done = 0;
        for (int i = 0; i < n_threads; i++) {
            if (!is_done[i]) {
                resume(i);
            }
            n_done += is_done[i];
        }
    }
}

template <class... Arguments, size_t... I>
static void call_with(void (*kernel)(Arguments...), void** values, std::index_sequence<I...>) {
    kernel(*(std::decay_t<Arguments>*)values[I]...);
}

template <auto KERNEL, class... Arguments>
static void call_kernel(void (*)(Arguments...), void** values) {
    call_with(KERNEL, values, std::index_sequence_for<Arguments...>{});
}

template <auto KERNEL>
static void run(unsigned int x, unsigned int y, unsigned int n_threads, void** values) {
    call = [](void** values) { call_kernel<KERNEL>(KERNEL, values); };
    arguments = values;
    gridDim = {x, y, 1};
    blockDim = {n_threads, 1, 1};
    for (unsigned int i = 0; i < x * y; i++) {
        blockIdx = {i % x, i / x, 0};
        run_block((int)n_threads);
    }
}

#define RUN(NAME)                                                                                           \
    extern "C" void run_##NAME(unsigned int x, unsigned int y, unsigned int n_threads, void** arguments) { \
        run<NAME>(x, y, n_threads, arguments);                                                              \
    }
