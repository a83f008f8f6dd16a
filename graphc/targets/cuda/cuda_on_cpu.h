// CUDA kernels on a CPU, for tests: gives the words of CUDA C++ their meaning, so that the text that nvcc or NVRTC
// compiles for a GPU also compiles, unchanged, with a C++17 compiler on Linux.
//
// What it is: an oracle, not a fast path. One fibre (a stack of its own) stands for one CUDA thread; blocks run one
// after another; a fibre runs until it waits at a barrier or a warp operation, or returns. No two fibres ever run at
// once, so every run is deterministic; graphc_cpu_configure() chooses the order in which blocks and threads take their
// turns.
//
// What it finds, and reports with kernel, block, thread and line instead of hanging or crashing:
//   divergent barrier    some threads wait at a __syncthreads() that others never reach, or wait at another line;
//   divergent warp       a lane named in a warp operation's mask does not reach it, or a shuffle reads an absent lane;
//   race                 two threads touch the same byte, at least one writes, and no barrier lies between them
//                        (within a block: __syncthreads, within a warp: __syncwarp too, between blocks: nothing helps);
//   outside              an access outside every buffer registered with graphc_cpu_add_range();
//   uninitialised        a read of shared memory that no thread of this block has written;
//   bad launch           an empty grid, or a block that is empty or larger than 1024 threads.
// The last four memory checks need GRAPHC_CPU_CHECK=1 and an object compiled with -fsanitize=thread but linked without
// it: the compiler then calls __tsan_read4(address) and its kin at each access, and this header is what answers.
//
// Each access is ordered after the launch's start, the block's last barrier and the warp's last __syncwarp. The checker
// keeps, for each byte, its last writer and one reader; run forward and in reverse, that is complete: whichever of a
// racing pair the one order forgets is the first of the other. (The idea is FastTrack's, Flanagan and Freund, PLDI
// 2009, with scalar clocks because barriers here order whole groups.)
//
// Not modelled: dynamic shared memory (extern __shared__), several streams, cooperative groups, weak memory order.
//
//   __global__ void twice(float* x, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) x[i] *= 2; }
//   extern "C" int run(void** buffers) { return GRAPHC_LAUNCH(twice, dim3(3), dim3(32), 0, (float*)buffers[0], 70); }
#pragma once
#ifndef __linux__
#error "cuda_on_cpu.h needs Linux: ucontext fibres and ELF section symbols"
#endif
#undef _FORTIFY_SOURCE  // its longjmp check forbids jumps between stacks, which is what fibres are
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define GRAPHC_ON_CPU 1

// ---- keywords ------------------------------------------------------------------------------------------------------
#define __global__ static __attribute__((noinline, unused))
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __constant__ static const
#define __align__(n) __attribute__((aligned(n)))
// Blocks run one after another, so one static instance of a kernel's shared array is exact. The section gathers them
// all: the runtime fills it with NaN bytes before each block, and the checker knows shared memory by its address.
#define __shared__ static __attribute__((section("graphc_shared")))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
typedef void* cudaStream_t;

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

// GRAPHC_LAUNCH(kernel, grid, block, stream, arguments...) is an int: 0, or an error's code. On a GPU the generated
// source defines it as kernel<<<grid, block, 0, stream>>>(arguments...) followed by cudaGetLastError().
#define GRAPHC_LAUNCH(kernel, grid, block, stream, ...) \
  graphc_cpu::launch(#kernel, (grid), (block), [&]() GRAPHC_UNCHECKED { kernel(__VA_ARGS__); })

// Functions of the runtime are never instrumented: their own accesses are not the kernel's.
#define GRAPHC_UNCHECKED __attribute__((no_sanitize("thread")))
#define GRAPHC_RUNTIME static GRAPHC_UNCHECKED __attribute__((unused))
#define GRAPHC_EXPORT extern "C" GRAPHC_UNCHECKED __attribute__((visibility("default")))

extern "C" {
extern char __start_graphc_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_graphc_shared[] __attribute__((weak, visibility("hidden")));
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _end[] __attribute__((visibility("hidden")));
}

namespace graphc_cpu {

enum Code { OK, DIVERGENT_BARRIER, DIVERGENT_WARP, RACE, OUTSIDE, UNINITIALISED, BAD_LAUNCH };
enum State { READY, AT_BARRIER, AT_WARP, DONE };
enum Order { FORWARD, REVERSE, INTERLEAVED };

// ---- failure: the first one of a launch is kept; the launch then stops ---------------------------------------------
struct Failure {
  int code = OK;
  char text[512] = "";
  uint32_t here = 0, there = 0;  // offsets of the two accesses of a race in this object file; 0 means not known
};
static Failure failure;
static const char* kernel_name = "";

GRAPHC_RUNTIME void report(int code, const char* format, ...) {
  if (failure.code != OK) return;
  failure.code = code;
  int used = snprintf(failure.text, sizeof failure.text, "kernel %s, block (%u,%u,%u): ", kernel_name, blockIdx.x,
                      blockIdx.y, blockIdx.z);
  va_list rest;
  va_start(rest, format);
  vsnprintf(failure.text + used, sizeof failure.text - used, format, rest);
  va_end(rest);
}

// ---- fibres --------------------------------------------------------------------------------------------------------
static const unsigned MAX_THREADS = 1024, WARP = 32;
static const size_t STACK_BYTES = 128 << 10;

struct Fiber {
  ucontext_t start;  // used once, to enter the fibre's own stack
  jmp_buf where;     // where it left off; jumping there needs no system call, unlike swapcontext
  char* stack = nullptr;
  bool started = false;
  State state = DONE;
  uint3 index;
  int line = 0;       // of the barrier or warp operation it waits at
  unsigned mask = 0;  // lanes that the warp operation names
  bool orders_memory = false;
  unsigned source = 0;  // lane whose value it asks for
  uint64_t given = 0, received = 0;
  unsigned peers = 0,
           ballot = 0;  // lanes that took part in its last warp operation; those of them that gave a non-zero
};

static Fiber fibers[MAX_THREADS];
static Fiber* current;
static jmp_buf scheduler;
static unsigned threads_in_block;
static Order order = FORWARD;
static void (*body)(void*);
static void* body_argument;

// The clock ticks at each synchronisation; an access is stamped with the clock's value.
static uint32_t clock_now, launch_start, block_start, last_barrier, last_warp_sync[MAX_THREADS / WARP];
static int last_barrier_line;

GRAPHC_RUNTIME unsigned thread_id(const Fiber* fiber) { return (unsigned)(fiber - fibers); }

GRAPHC_RUNTIME void leave_fiber() {
  if (_setjmp(current->where) == 0) _longjmp(scheduler, 1);
}
GRAPHC_RUNTIME void fiber_main() {
  for (;;) {  // one round a block: the fibre is reused
    body(body_argument);
    current->state = DONE;
    leave_fiber();
  }
}
GRAPHC_RUNTIME void enter_fiber(Fiber* fiber) {
  current = fiber;
  threadIdx = fiber->index;
  if (_setjmp(scheduler) != 0) return;
  if (fiber->started) _longjmp(fiber->where, 1);
  fiber->started = true;
  if (fiber->stack == nullptr) fiber->stack = (char*)malloc(STACK_BYTES);
  getcontext(&fiber->start);
  fiber->start.uc_stack.ss_sp = fiber->stack;
  fiber->start.uc_stack.ss_size = STACK_BYTES;
  fiber->start.uc_link = nullptr;
  makecontext(&fiber->start, fiber_main, 0);
  setcontext(&fiber->start);
}

// ---- barriers and warp operations ----------------------------------------------------------------------------------
GRAPHC_RUNTIME void wait_at_barrier(int line) {
  current->line = line;
  current->state = AT_BARRIER;
  leave_fiber();
}
GRAPHC_RUNTIME void wait_at_warp(unsigned mask, bool orders_memory, uint64_t given, unsigned source, int line) {
  current->line = line;
  current->mask = mask;
  current->orders_memory = orders_memory;
  current->given = given;
  current->source = source;
  current->state = AT_WARP;
  leave_fiber();
}

// Lanes of one warp go on when every lane that the mask names, and that exists and has not returned, waits at the same
// line with the same mask.
GRAPHC_RUNTIME unsigned warp_group(unsigned first, const Fiber& asker) {
  unsigned group = 0;
  for (unsigned lane = 0; lane < WARP && first + lane < threads_in_block; lane++) {
    const Fiber& peer = fibers[first + lane];
    if (!(asker.mask >> lane & 1) || peer.state == DONE) continue;
    if (peer.state != AT_WARP || peer.line != asker.line || peer.mask != asker.mask) return 0;
    group |= 1u << lane;
  }
  return group;
}
// The exchange happens here, while all of the group stand still: a lane that runs ahead can disturb nobody.
GRAPHC_RUNTIME void release_group(unsigned first, unsigned group) {
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < WARP; lane++)
    if (group >> lane & 1 && fibers[first + lane].given != 0) ballot |= 1u << lane;
  for (unsigned lane = 0; lane < WARP; lane++) {
    if (!(group >> lane & 1)) continue;
    Fiber& fiber = fibers[first + lane];
    fiber.peers = group;
    fiber.ballot = ballot;
    if (group >> fiber.source & 1) fiber.received = fibers[first + fiber.source].given;
    fiber.state = READY;
  }
}
GRAPHC_RUNTIME bool release_warps() {
  bool released = false;
  for (unsigned thread = 0; thread < threads_in_block; thread++) {
    Fiber& asker = fibers[thread];
    if (asker.state != AT_WARP) continue;
    unsigned first = thread / WARP * WARP, group = warp_group(first, asker);
    if (!(group >> (thread - first) & 1)) continue;
    if (asker.orders_memory) last_warp_sync[first / WARP] = ++clock_now;
    release_group(first, group);
    released = true;
  }
  return released;
}

GRAPHC_RUNTIME const char* describe(const Fiber& fiber, char (&text)[96]) {
  const uint3& i = fiber.index;
  const char* what = fiber.state == DONE         ? "has returned"
                     : fiber.state == AT_BARRIER ? "waits at a barrier"
                                                 : "waits at a warp operation";
  if (fiber.state == DONE)
    snprintf(text, sizeof text, "thread (%u,%u,%u) %s", i.x, i.y, i.z, what);
  else
    snprintf(text, sizeof text, "thread (%u,%u,%u) %s in line %d", i.x, i.y, i.z, what, fiber.line);
  return text;
}

// Nobody can run and no warp operation is complete: either all threads stand at one barrier, or the block is stuck.
GRAPHC_RUNTIME bool release_barrier() {
  const Fiber& first = fibers[0];
  char one[96], other[96];
  for (unsigned thread = 0; thread < threads_in_block; thread++) {
    const Fiber& fiber = fibers[thread];
    if (fiber.state != AT_WARP) continue;
    for (unsigned lane = 0, base = thread / WARP * WARP; lane < WARP && base + lane < threads_in_block; lane++) {
      const Fiber& peer = fibers[base + lane];
      bool named = fiber.mask >> lane & 1,
           there = peer.state == AT_WARP && peer.line == fiber.line && peer.mask == fiber.mask;
      if (named && peer.state != DONE && !there)
        report(DIVERGENT_WARP, "divergent warp operation: %s with mask 0x%08x, but %s", describe(fiber, one),
               fiber.mask, describe(peer, other));
    }
    report(DIVERGENT_WARP, "divergent warp operation: %s, but its mask 0x%08x leaves it out", describe(fiber, one),
           fiber.mask);
  }
  for (unsigned thread = 1; thread < threads_in_block; thread++) {
    const Fiber& fiber = fibers[thread];
    if (fiber.state == first.state && fiber.line == first.line) continue;
    report(DIVERGENT_BARRIER, "divergent barrier: %s, but %s", describe(first, one), describe(fiber, other));
  }
  if (failure.code != OK) return false;
  last_barrier = ++clock_now;
  last_barrier_line = first.line;
  for (unsigned thread = 0; thread < threads_in_block; thread++) fibers[thread].state = READY;
  return true;
}

// ---- scheduling ----------------------------------------------------------------------------------------------------
// The k-th of n in the chosen order; 7919 is a prime above 1024, so multiplying by it permutes the threads of any
// block.
GRAPHC_RUNTIME unsigned turn(unsigned k, unsigned n) {
  return order == FORWARD ? k : order == REVERSE ? n - 1 - k : (unsigned)((uint64_t)k * 7919 % n);
}
GRAPHC_RUNTIME bool all_done() {
  for (unsigned thread = 0; thread < threads_in_block; thread++)
    if (fibers[thread].state != DONE) return false;
  return true;
}
GRAPHC_RUNTIME bool run_block() {
  if (__start_graphc_shared != nullptr)
    memset(__start_graphc_shared, 0xff, (size_t)(__stop_graphc_shared - __start_graphc_shared));
  block_start = last_barrier = ++clock_now;
  last_barrier_line = 0;
  for (unsigned thread = 0; thread < threads_in_block; thread++) fibers[thread].state = READY;
  do {
    for (unsigned k = 0; k < threads_in_block; k++) {
      Fiber& fiber = fibers[turn(k, threads_in_block)];
      if (fiber.state == READY) enter_fiber(&fiber);
      if (failure.code != OK) return false;
    }
  } while (release_warps() || (!all_done() && release_barrier()));
  return failure.code == OK;
}
GRAPHC_RUNTIME void prepare_fibers() {
  unsigned thread = 0;
  for (unsigned z = 0; z < blockDim.z; z++)
    for (unsigned y = 0; y < blockDim.y; y++)
      for (unsigned x = 0; x < blockDim.x; x++) fibers[thread++].index = uint3{x, y, z};
  launch_start = ++clock_now;
}
GRAPHC_RUNTIME void run_grid() {
  uint64_t blocks = (uint64_t)gridDim.x * gridDim.y * gridDim.z;
  for (uint64_t k = 0; k < blocks; k++) {
    uint64_t b = order == FORWARD ? k : blocks - 1 - k;
    blockIdx = uint3{(unsigned)(b % gridDim.x), (unsigned)(b / gridDim.x % gridDim.y),
                     (unsigned)(b / ((uint64_t)gridDim.x * gridDim.y))};
    if (!run_block()) break;
  }
  if (failure.code != OK)  // fibres stopped in the middle of a kernel cannot be used again: enter them afresh
    for (Fiber& fiber : fibers) fiber.started = false;
}
template <class Body>
GRAPHC_RUNTIME int launch(const char* name, dim3 grid, dim3 block, Body kernel) {
  uint64_t threads = (uint64_t)block.x * block.y * block.z;
  kernel_name = name;
  blockIdx = uint3{0, 0, 0};
  if (failure.code != OK) return failure.code;  // as on a GPU, an error sticks until it is read
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) report(BAD_LAUNCH, "an empty grid: skip the launch instead");
  if (threads == 0 || threads > MAX_THREADS)
    report(BAD_LAUNCH, "%llu threads in a block; from 1 to 1024 are allowed", (unsigned long long)threads);
  if (failure.code != OK) return failure.code;
  gridDim = grid;
  blockDim = block;
  threads_in_block = (unsigned)threads;
  body = [](void* argument) { (*(Body*)argument)(); };
  body_argument = &kernel;
  prepare_fibers();
  run_grid();
  return failure.code;
}

// ---- the checker: shadow memory, one cell a byte -------------------------------------------------------------------
struct Access {
  uint32_t time;     // the clock when it happened; 0: never
  uint32_t thread;   // number in the whole grid
  uint32_t pc : 31;  // where in this object file
  uint32_t atomic : 1;
};
struct Cell {
  Access write, read;
};

static const uintptr_t PAGE = 4096;
struct Page {
  uintptr_t number;
  Cell* cells;
};
static Page* pages;
static size_t page_slots, page_count;
static Page last_page;

struct Range {
  uintptr_t begin, end;
};
static Range* ranges;
static size_t range_count;

GRAPHC_RUNTIME Page* page_slot(uintptr_t number) {
  size_t i = (size_t)((uint64_t)number * 0x9E3779B97F4A7C15ull >> 20) & (page_slots - 1);
  while (pages[i].cells != nullptr && pages[i].number != number) i = (i + 1) & (page_slots - 1);
  return &pages[i];
}
GRAPHC_RUNTIME void grow_pages() {
  Page* old = pages;
  size_t old_slots = page_slots;
  page_slots = old_slots ? old_slots * 2 : 1024;
  pages = (Page*)calloc(page_slots, sizeof(Page));
  for (size_t i = 0; i < old_slots; i++)
    if (old[i].cells != nullptr) *page_slot(old[i].number) = old[i];
  free(old);
}
GRAPHC_RUNTIME Cell* cell_of(uintptr_t address) {
  uintptr_t number = address / PAGE;
  if (last_page.cells == nullptr || last_page.number != number) {
    if (page_count * 2 >= page_slots) grow_pages();
    Page* page = page_slot(number);
    if (page->cells == nullptr) *page = Page{number, (Cell*)calloc(PAGE, sizeof(Cell))}, page_count++;
    last_page = *page;
  }
  return last_page.cells + address % PAGE;
}
GRAPHC_RUNTIME bool inside_ranges(uintptr_t begin, uintptr_t end) {
  size_t low = 0, high = range_count;  // the ranges are sorted; find the last one that begins at or before
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (ranges[middle].begin <= begin)
      low = middle + 1;
    else
      high = middle;
  }
  return low > 0 && end <= ranges[low - 1].end;
}
GRAPHC_RUNTIME bool ordered(const Access& before, uint32_t me, bool shared) {
  if (before.time < (shared ? block_start : launch_start) || before.thread == me) return true;
  if (before.thread / threads_in_block != me / threads_in_block)
    return false;  // blocks of one launch are never ordered
  if (before.time < last_barrier) return true;
  uint32_t other_warp = before.thread % threads_in_block / WARP, my_warp = thread_id(current) / WARP;
  return other_warp == my_warp && before.time < last_warp_sync[my_warp];
}
GRAPHC_RUNTIME void stop_with_race(const Access& there, const Access& here, bool was_write, bool is_write,
                                   bool shared) {
  uint32_t thread = there.thread % threads_in_block, block = there.thread / threads_in_block;
  bool same_block = block == here.thread / threads_in_block;
  const uint3 &me = current->index, &it = fibers[thread].index;
  char where[64] = "", since[64] = ", and blocks of one launch have no order";
  if (!same_block)
    snprintf(where, sizeof where, " of block (%u,%u,%u)", block % gridDim.x, block / gridDim.x % gridDim.y,
             block / (gridDim.x * gridDim.y));
  else if (last_barrier_line)
    snprintf(since, sizeof since, " since the barrier in line %d", last_barrier_line);
  else
    snprintf(since, sizeof since, " and no barrier lies between them");
  report(RACE, "race: thread (%u,%u,%u) %s %s memory that thread (%u,%u,%u)%s %s%s", me.x, me.y, me.z,
         is_write ? "writes" : "reads", shared ? "shared" : "global", it.x, it.y, it.z, where,
         was_write ? "wrote" : "read", since);
  failure.here = here.pc;
  failure.there = there.pc;
  leave_fiber();
}
GRAPHC_RUNTIME void check_place(uintptr_t begin, size_t size, bool is_write, uint32_t pc) {
  if (range_count == 0 || inside_ranges(begin, begin + size)) return;
  const uint3& me = current->index;
  report(OUTSIDE, "outside: thread (%u,%u,%u) %s %zu bytes outside every buffer", me.x, me.y, me.z,
         is_write ? "writes" : "reads", size);
  failure.here = pc;
  leave_fiber();
}
GRAPHC_RUNTIME void check_access(const void* address, size_t size, bool is_write, bool is_atomic, const void* caller) {
  if (current == nullptr || current->state != READY) return;
  uintptr_t begin = (uintptr_t)address, stack = (uintptr_t)current->stack;
  if (begin - stack < STACK_BYTES) return;
  bool shared = begin - (uintptr_t)__start_graphc_shared < (uintptr_t)(__stop_graphc_shared - __start_graphc_shared);
  if (!shared && begin - (uintptr_t)__ehdr_start < (uintptr_t)(_end - __ehdr_start)) return;  // threadIdx, constants
  uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  Access here{clock_now, block * threads_in_block + thread_id(current), 0, is_atomic};
  here.pc = (uint32_t)((const char*)caller - __ehdr_start) & 0x7fffffffu;
  if (!shared) check_place(begin, size, is_write, here.pc);
  for (uintptr_t byte = begin; byte < begin + size; byte++) {
    Cell* cell = cell_of(byte);
    bool both_atomic = is_atomic && cell->write.atomic;
    if (!both_atomic && !ordered(cell->write, here.thread, shared))
      stop_with_race(cell->write, here, true, is_write, shared);
    if (is_write && !(is_atomic && cell->read.atomic) && !ordered(cell->read, here.thread, shared))
      stop_with_race(cell->read, here, false, true, shared);
    if (shared && !is_write && cell->write.time < block_start) {
      const uint3& me = current->index;
      report(UNINITIALISED,
             "uninitialised: thread (%u,%u,%u) reads shared memory that no thread of this block has written yet", me.x,
             me.y, me.z);
      failure.here = here.pc;
      leave_fiber();
    }
    if (is_write) cell->write = here;
    if (!is_write || is_atomic) cell->read = here;
  }
}

// ---- what kernels call ---------------------------------------------------------------------------------------------
template <class T>
GRAPHC_RUNTIME uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "warp operations move at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
GRAPHC_RUNTIME T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
GRAPHC_RUNTIME T shuffle(unsigned mask, T value, unsigned source, int line) {
  wait_at_warp(mask, false, to_bits(value), source, line);
  if (!(current->peers >> source & 1)) {
    const uint3& me = current->index;
    report(DIVERGENT_WARP, "divergent warp operation: thread (%u,%u,%u) reads lane %u in line %d, which takes no part",
           me.x, me.y, me.z, source, line);
    leave_fiber();
  }
  return from_bits<T>(current->received);
}
GRAPHC_RUNTIME unsigned lane() { return thread_id(current) % WARP; }

}  // namespace graphc_cpu

// __builtin_LINE() as a default argument is the caller's line.
GRAPHC_RUNTIME void __syncthreads(int line = __builtin_LINE()) { graphc_cpu::wait_at_barrier(line); }
GRAPHC_RUNTIME void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  graphc_cpu::wait_at_warp(mask, true, 0, 0, line);
}
template <class T>
GRAPHC_RUNTIME T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
  unsigned base = graphc_cpu::lane() & ~(unsigned)(width - 1);
  return graphc_cpu::shuffle(mask, value, base + ((unsigned)source & (unsigned)(width - 1)), line);
}
template <class T>
GRAPHC_RUNTIME T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int line = __builtin_LINE()) {
  unsigned lane = graphc_cpu::lane(), source = lane ^ (unsigned)bits,
           end = (lane & ~(unsigned)(width - 1)) + (unsigned)width;
  return graphc_cpu::shuffle(mask, value, source < end ? source : lane, line);
}
template <class T>
GRAPHC_RUNTIME T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
  unsigned lane = graphc_cpu::lane(), end = (lane & ~(unsigned)(width - 1)) + (unsigned)width;
  return graphc_cpu::shuffle(mask, value, lane + delta < end ? lane + delta : lane, line);
}
template <class T>
GRAPHC_RUNTIME T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
  unsigned lane = graphc_cpu::lane(), base = lane & ~(unsigned)(width - 1);
  return graphc_cpu::shuffle(mask, value, lane >= base + delta ? lane - delta : lane, line);
}
GRAPHC_RUNTIME unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  graphc_cpu::wait_at_warp(mask, false, predicate != 0, graphc_cpu::lane(), line);
  return graphc_cpu::current->ballot;
}
GRAPHC_RUNTIME int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) != 0;
}
GRAPHC_RUNTIME int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) == graphc_cpu::current->peers;
}

// ---- atomics: fibres never interleave within a function, so plain arithmetic is atomic; the checker is told -------
#if GRAPHC_CPU_CHECK
#define GRAPHC_ATOMIC(pointer) \
  graphc_cpu::check_access((const void*)(pointer), sizeof *(pointer), true, true, __builtin_return_address(0))
#else
#define GRAPHC_ATOMIC(pointer) (void)0
#endif
#define GRAPHC_DEFINE_ATOMIC(name, result)                                 \
  template <class T, class U>                                              \
  __attribute__((noinline)) GRAPHC_RUNTIME T name(T* address, U operand) { \
    GRAPHC_ATOMIC(address);                                                \
    const T old = *address, value = (T)operand;                            \
    *address = (result);                                                   \
    return old;                                                            \
  }
GRAPHC_DEFINE_ATOMIC(atomicAdd, old + value)
GRAPHC_DEFINE_ATOMIC(atomicMax, value > old ? value : old)
GRAPHC_DEFINE_ATOMIC(atomicMin, value < old ? value : old)
GRAPHC_DEFINE_ATOMIC(atomicAnd, old& value)
GRAPHC_DEFINE_ATOMIC(atomicOr, old | value)
GRAPHC_DEFINE_ATOMIC(atomicExch, value)
template <class T>
__attribute__((noinline)) GRAPHC_RUNTIME T atomicCAS(T* address, T expected, T value) {
  GRAPHC_ATOMIC(address);
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}
GRAPHC_RUNTIME void __threadfence() {}
GRAPHC_RUNTIME void __threadfence_block() {}

// ---- CUDA's own mathematics; expf, erff, fmaf, tanhf and the like are the C library's ------------------------------
GRAPHC_RUNTIME float rsqrtf(float x) { return 1.0f / sqrtf(x); }
GRAPHC_RUNTIME double rsqrt(double x) { return 1.0 / sqrt(x); }
#define __expf expf  // macros, because glibc declares functions of these names
#define __logf logf
GRAPHC_RUNTIME float __fdividef(float x, float y) { return x / y; }
GRAPHC_RUNTIME float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
GRAPHC_RUNTIME float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
GRAPHC_RUNTIME float __fadd_rn(float x, float y) { return x + y; }
GRAPHC_RUNTIME float __fmul_rn(float x, float y) { return x * y; }
GRAPHC_RUNTIME float __fdiv_rn(float x, float y) { return x / y; }
GRAPHC_RUNTIME double __dadd_rn(double x, double y) { return x + y; }
GRAPHC_RUNTIME double __dmul_rn(double x, double y) { return x * y; }
GRAPHC_RUNTIME float __uint_as_float(unsigned bits) { return graphc_cpu::from_bits<float>(bits); }
GRAPHC_RUNTIME float __int_as_float(int bits) { return graphc_cpu::from_bits<float>((unsigned)bits); }
GRAPHC_RUNTIME unsigned __float_as_uint(float x) { return (unsigned)graphc_cpu::to_bits(x); }
GRAPHC_RUNTIME int __float_as_int(float x) { return (int)graphc_cpu::to_bits(x); }
GRAPHC_RUNTIME double __longlong_as_double(long long bits) { return graphc_cpu::from_bits<double>((uint64_t)bits); }
GRAPHC_RUNTIME long long __double_as_longlong(double x) { return (long long)graphc_cpu::to_bits(x); }
GRAPHC_RUNTIME unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((uint64_t)x * y >> 32); }
GRAPHC_RUNTIME int __popc(unsigned x) { return __builtin_popcount(x); }
GRAPHC_RUNTIME int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
template <class T>
static inline T __ldg(const T* address) {
  return *address;
}
// As in CUDA, min and max of floats are fminf and fmaxf: a NaN loses against a number.
#define GRAPHC_DEFINE_MIN_MAX(T)                           \
  GRAPHC_RUNTIME T min(T x, T y) { return y < x ? y : x; } \
  GRAPHC_RUNTIME T max(T x, T y) { return y > x ? y : x; }
GRAPHC_DEFINE_MIN_MAX(int)
GRAPHC_DEFINE_MIN_MAX(unsigned)
GRAPHC_DEFINE_MIN_MAX(long)
GRAPHC_DEFINE_MIN_MAX(unsigned long)
GRAPHC_DEFINE_MIN_MAX(long long)
GRAPHC_DEFINE_MIN_MAX(unsigned long long)
GRAPHC_RUNTIME float min(float x, float y) { return fminf(x, y); }
GRAPHC_RUNTIME float max(float x, float y) { return fmaxf(x, y); }
GRAPHC_RUNTIME double min(double x, double y) { return fmin(x, y); }
GRAPHC_RUNTIME double max(double x, double y) { return fmax(x, y); }

// ---- what the compiler calls at each access under -fsanitize=thread ------------------------------------------------
#if GRAPHC_CPU_CHECK
#define GRAPHC_ANSWER extern "C" GRAPHC_UNCHECKED __attribute__((visibility("hidden")))
#define GRAPHC_HOOK(name, size, is_write)                                                  \
  GRAPHC_ANSWER void name(void* address) {                                                 \
    graphc_cpu::check_access(address, size, is_write, false, __builtin_return_address(0)); \
  }
#define GRAPHC_HOOKS(size)                    \
  GRAPHC_HOOK(__tsan_read##size, size, false) \
  GRAPHC_HOOK(__tsan_write##size, size, true)
GRAPHC_HOOKS(1)
GRAPHC_HOOKS(2)
GRAPHC_HOOKS(4)
GRAPHC_HOOKS(8)
GRAPHC_HOOKS(16)
#define GRAPHC_UNALIGNED_HOOKS(size)                    \
  GRAPHC_HOOK(__tsan_unaligned_read##size, size, false) \
  GRAPHC_HOOK(__tsan_unaligned_write##size, size, true)
GRAPHC_UNALIGNED_HOOKS(2)
GRAPHC_UNALIGNED_HOOKS(4)
GRAPHC_UNALIGNED_HOOKS(8)
GRAPHC_UNALIGNED_HOOKS(16)
GRAPHC_ANSWER void __tsan_read_range(void* address, size_t size) {
  graphc_cpu::check_access(address, size, false, false, __builtin_return_address(0));
}
GRAPHC_ANSWER void __tsan_write_range(void* address, size_t size) {
  graphc_cpu::check_access(address, size, true, false, __builtin_return_address(0));
}
// clang calls these for copies of whole objects.
GRAPHC_ANSWER void* __tsan_memcpy(void* to, const void* from, size_t size) {
  graphc_cpu::check_access(from, size, false, false, __builtin_return_address(0));
  graphc_cpu::check_access(to, size, true, false, __builtin_return_address(0));
  return memmove(to, from, size);
}
GRAPHC_ANSWER void* __tsan_memmove(void* to, const void* from, size_t size) { return __tsan_memcpy(to, from, size); }
GRAPHC_ANSWER void* __tsan_memset(void* to, int value, size_t size) {
  graphc_cpu::check_access(to, size, true, false, __builtin_return_address(0));
  return memset(to, value, size);
}
GRAPHC_ANSWER void __tsan_init() {}
GRAPHC_ANSWER void __tsan_func_entry(void*) {}
GRAPHC_ANSWER void __tsan_func_exit() {}
#endif

// ---- the harness's side: all but a program's own entry that the shared object exports ------------------------------
GRAPHC_EXPORT void graphc_cpu_configure(int order) { graphc_cpu::order = (graphc_cpu::Order)order; }
// Names memory that kernels may touch. Ranges are kept sorted and must not overlap.
GRAPHC_EXPORT void graphc_cpu_add_range(void* begin, size_t bytes) {
  using namespace graphc_cpu;
  ranges = (Range*)realloc(ranges, (range_count + 1) * sizeof(Range));
  size_t i = range_count++;
  for (; i > 0 && ranges[i - 1].begin > (uintptr_t)begin; i--) ranges[i] = ranges[i - 1];
  ranges[i] = Range{(uintptr_t)begin, (uintptr_t)begin + bytes};
}
// Forgets the last failure, the ranges and the history of every byte.
GRAPHC_EXPORT void graphc_cpu_reset() {
  using namespace graphc_cpu;
  failure = Failure();
  range_count = 0;
  for (size_t i = 0; i < page_slots; i++) free(pages[i].cells);
  free(pages);
  pages = nullptr;
  page_slots = page_count = 0;
  last_page = Page{0, nullptr};
  clock_now = 0;
}
GRAPHC_EXPORT int graphc_cpu_failure(const char** text, uint32_t* here, uint32_t* there) {
  *text = graphc_cpu::failure.text;
  *here = graphc_cpu::failure.here;
  *there = graphc_cpu::failure.there;
  return graphc_cpu::failure.code;
}
