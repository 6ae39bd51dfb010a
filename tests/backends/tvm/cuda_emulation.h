// Runs a generated CUDA kernel on the CPU: one fibre per thread, one thread block after the other.
//
// The device functions of backends/tvm/kernels/device_functions.py are defined here in plain C++.
// What a GPU leaves undefined is made to show: shared memory starts as NaN, an asynchronous copy
// lands no sooner than the wait for it, and a warp's lanes meet only where an instruction says so.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static

using half = _Float16;
using uint = unsigned;
using std::max;
using std::min;
#define CUDART_INF_F HUGE_VALF
#define __align__(bytes)
struct uint4 {
  unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline half __float2half_rn(float value) { return (half)value; }
inline unsigned __pack_half2(half low, half high) {
  uint16_t bits[2];
  std::memcpy(bits, &low, 2);
  std::memcpy(bits + 1, &high, 2);
  return bits[0] | (unsigned)bits[1] << 16;
}
struct nv_bfloat16 {
  uint16_t bits;
};
struct Index {
  int x = 0, y = 0, z = 0;
};
static thread_local Index threadIdx, blockIdx;
static Index blockDim_, gridDim_;

static constexpr int kSharedBytes = 256 * 1024;
alignas(1024) static unsigned char emulated_shared[kSharedBytes];

struct Copy {
  unsigned destination;
  const void* source;
  bool valid;
};

struct Fibre {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(256 * 1024);
  bool done = false;
  int number = 0;
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
  unsigned slots[8];
};
struct Meeting {
  int arrived = 0, members = 0;
  unsigned generation = 0;
};

static std::vector<Fibre*> fibres;
static std::vector<Meeting> warps;
static Meeting block_meeting;
static ucontext_t scheduler;
static Fibre* current;

static void yield_fibre() { swapcontext(&current->context, &scheduler); }

static void meet(Meeting& meeting) {
  unsigned generation = meeting.generation;
  if (++meeting.arrived == meeting.members) {
    meeting.arrived = 0;
    meeting.generation++;
    return;
  }
  while (meeting.generation == generation) yield_fibre();
}
static int lane() { return current->number % 32; }
static Fibre* peer(int other) { return fibres[current->number / 32 * 32 + other]; }
static void meet_warp() { meet(warps[current->number / 32]); }

static float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
static float from_f16(uint16_t bits) {
  half value;
  std::memcpy(&value, &bits, 2);
  return (float)value;
}
static uint16_t to_f16(float value) {
  half rounded = (half)value;
  uint16_t bits;
  std::memcpy(&bits, &rounded, 2);
  return bits;
}
static float from_bf16(uint16_t bits) { return float_of_bits((uint32_t)bits << 16); }
static uint16_t to_bf16(float value) {
  if (value != value) return 0x7fff;
  uint32_t bits = bits_of_float(value);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline void __syncthreads() { meet(block_meeting); }
inline void dechaff_block_barrier() { meet(block_meeting); }
inline void dechaff_warp_barrier() { meet_warp(); }

inline unsigned dechaff_shared_address(const void* pointer) {
  return (unsigned)((const unsigned char*)pointer - emulated_shared);
}
static unsigned char* shared_at(unsigned address, unsigned bytes) {
  if (address % bytes || address + bytes > kSharedBytes) {
    std::fprintf(stderr, "shared memory: bad address %u for %u bytes\n", address, bytes);
    std::abort();
  }
  return emulated_shared + address;
}

inline void dechaff_copy_async(unsigned destination, const void* source, int valid) {
  shared_at(destination, 16);
  if ((uintptr_t)source % 16) std::abort();
  current->open.push_back({destination, source, valid != 0});
}
inline void dechaff_commit_copies() {
  current->groups.push_back(current->open);
  current->open.clear();
}
static void wait_for_copies(size_t pending) {
  while (current->groups.size() > pending) {
    for (const Copy& copy : current->groups.front()) {
      if (copy.valid)
        std::memcpy(shared_at(copy.destination, 16), copy.source, 16);
      else
        std::memset(shared_at(copy.destination, 16), 0, 16);
    }
    current->groups.erase(current->groups.begin());
  }
}
inline void dechaff_wait_for_copies_0() { wait_for_copies(0); }
inline void dechaff_wait_for_copies_1() { wait_for_copies(1); }

static void load_matrices(unsigned* r, unsigned address, bool transposed) {
  current->slots[0] = address;
  meet_warp();
  for (int matrix = 0; matrix < 4; matrix++) {
    uint16_t pair[2];
    for (int j = 0; j < 2; j++) {
      int row = transposed ? lane() % 4 * 2 + j : lane() / 4;
      int column = transposed ? lane() / 4 : lane() % 4 * 2 + j;
      unsigned row_address = peer(matrix * 8 + row)->slots[0];
      std::memcpy(&pair[j], shared_at(row_address, 16) + column * 2, 2);
    }
    r[matrix] = pair[0] | (unsigned)pair[1] << 16;
  }
  meet_warp();
}
inline void dechaff_load_matrices(unsigned* r, unsigned address) { load_matrices(r, address, false); }
inline void dechaff_load_matrices_transposed(unsigned* r, unsigned address) {
  load_matrices(r, address, true);
}

static void multiply_accumulate(float* c, const unsigned* a, const unsigned* b,
                                float (*number)(uint16_t)) {
  std::memcpy(current->slots, a, 16);
  std::memcpy(current->slots + 4, b, 8);
  meet_warp();
  for (int i = 0; i < 4; i++) {
    int row_half = i / 2, group = lane() / 4, column = lane() % 4 * 2 + i % 2;
    double sum = c[i];
    for (int k = 0; k < 16; k++) {
      unsigned left = peer(group * 4 + k % 8 / 2)->slots[k / 8 * 2 + row_half];
      unsigned right = peer(column * 4 + k % 8 / 2)->slots[4 + k / 8];
      sum += (double)number(left >> (k % 2 * 16) & 0xffff) * number(right >> (k % 2 * 16) & 0xffff);
    }
    c[i] = (float)sum;
  }
  meet_warp();
}
inline void dechaff_mma_f16(float* c, const unsigned* a, const unsigned* b) {
  multiply_accumulate(c, a, b, from_f16);
}
inline void dechaff_mma_bf16(float* c, const unsigned* a, const unsigned* b) {
  multiply_accumulate(c, a, b, from_bf16);
}
inline unsigned dechaff_pack_pair_f16(float low, float high) {
  return to_f16(low) | (unsigned)to_f16(high) << 16;
}
inline unsigned dechaff_pack_pair_bf16(float low, float high) {
  return to_bf16(low) | (unsigned)to_bf16(high) << 16;
}
inline float dechaff_exp2(float value) { return std::exp2(value); }
inline float dechaff_exchange(float value, int mask) {
  current->slots[0] = bits_of_float(value);
  meet_warp();
  float other = float_of_bits(peer(lane() ^ mask)->slots[0]);
  meet_warp();
  return other;
}
inline void dechaff_store_shared(unsigned address, unsigned value) {
  std::memcpy(shared_at(address, 4), &value, 4);
}
inline void dechaff_store_shared_float(unsigned address, float value) {
  std::memcpy(shared_at(address, 4), &value, 4);
}
inline float dechaff_load_shared_float(unsigned address) {
  float value;
  std::memcpy(&value, shared_at(address, 4), 4);
  return value;
}
inline void dechaff_copy_to_global(void* destination, unsigned address) {
  if ((uintptr_t)destination % 16) std::abort();
  std::memcpy(destination, shared_at(address, 16), 16);
}

static void load_eight(float* r, const void* source, float (*number)(uint16_t)) {
  if ((uintptr_t)source % 16) std::abort();
  for (int i = 0; i < 8; i++) r[i] = number(((const uint16_t*)source)[i]);
}
static void store_eight(void* destination, const float* r, uint16_t (*bits)(float)) {
  if ((uintptr_t)destination % 16) std::abort();
  for (int i = 0; i < 8; i++) ((uint16_t*)destination)[i] = bits(r[i]);
}
inline void dechaff_load_eight_float16(float* r, const void* p) { load_eight(r, p, from_f16); }
inline void dechaff_load_eight_bfloat16(float* r, const void* p) { load_eight(r, p, from_bf16); }
inline void dechaff_load_eight_float32(float* r, const void* p) { std::memcpy(r, p, 32); }
inline void dechaff_store_eight_float16(void* p, const float* r) { store_eight(p, r, to_f16); }
inline void dechaff_store_eight_bfloat16(void* p, const float* r) { store_eight(p, r, to_bf16); }
inline void dechaff_store_eight_float32(void* p, const float* r) { std::memcpy(p, r, 32); }
inline void dechaff_load_pair_float16(float* r, const void* p) {
  for (int i = 0; i < 2; i++) r[i] = from_f16(((const uint16_t*)p)[i]);
}
inline void dechaff_load_pair_bfloat16(float* r, const void* p) {
  for (int i = 0; i < 2; i++) r[i] = from_bf16(((const uint16_t*)p)[i]);
}
inline float dechaff_reciprocal(float value) { return 1 / value; }

// Hopper: a warpgroup's products read shared memory when they are waited for, no sooner.
inline void dechaff_fence_for_tensor_cores() {}
inline void dechaff_begin_warpgroup_products() {}
struct Product {
  float* c;
  unsigned left, left_registers[4], right, right_step;
  bool left_in_registers, accumulates;
  int columns;
  float (*number)(uint16_t);
};
static std::vector<std::vector<std::vector<Product>>> product_groups(1024);
static std::vector<std::vector<Product>> open_products(1024);
static float swizzled(unsigned start, unsigned offset, float (*number)(uint16_t)) {
  unsigned address = start + offset;
  address ^= (address >> 7 & 7) << 4;
  uint16_t bits;
  std::memcpy(&bits, shared_at(address, 2), 2);
  return number(bits);
}
static void multiply(const Product& p) {
  int warp = current->number / 32 % 4;
  std::memcpy(current->slots, p.left_registers, 16);
  meet_warp();
  for (int i = 0; i < p.columns / 2; i++) {
    int row = lane() / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane() % 4 * 2 + i % 2;
    double sum = p.accumulates ? p.c[i] : 0;
    for (int k = 0; k < 16; k++) {
      unsigned word = peer(lane() / 4 * 4 + k % 8 / 2)->slots[k / 8 * 2 + i / 2 % 2];
      int tile_row = warp * 16 + row;
      float left = p.left_in_registers
                       ? p.number(word >> (k % 2 * 16) & 0xffff)
                       : swizzled(p.left, tile_row / 8 * 1024 + tile_row % 8 * 128 + k * 2, p.number);
      unsigned right = p.right_step ? column / 64 * p.right_step + k / 8 * 1024 + k % 8 * 128 + column % 64 * 2
                                    : column / 8 * 1024 + column % 8 * 128 + k * 2;
      sum += (double)left * swizzled(p.right, right, p.number);
    }
    p.c[i] = (float)sum;
  }
  meet_warp();
}
static void wait_for_products(size_t pending) {
  auto& groups = product_groups[current->number];
  while (groups.size() > pending) {
    for (const Product& product : groups.front()) multiply(product);
    groups.erase(groups.begin());
  }
}
inline void dechaff_commit_warpgroup_products() {
  product_groups[current->number].push_back(open_products[current->number]);
  open_products[current->number].clear();
}
inline void dechaff_wait_for_warpgroup_products_0() { wait_for_products(0); }
inline void dechaff_wait_for_warpgroup_products_1() { wait_for_products(1); }
static void start_product(float* c, unsigned left, unsigned right, unsigned step, int columns,
                          int accumulates, float (*number)(uint16_t)) {
  open_products[current->number].push_back(
      {c, left, {0, 0, 0, 0}, right, step, false, accumulates != 0, columns, number});
}
static void start_product(float* c, const unsigned* left, unsigned right, unsigned step, int columns,
                          int accumulates, float (*number)(uint16_t)) {
  open_products[current->number].push_back({c, 0, {left[0], left[1], left[2], left[3]}, right, step,
                                            true, accumulates != 0, columns, number});
}

static int count_lanes(int flag, int below) {
  current->slots[0] = flag != 0;
  meet_warp();
  int count = 0;
  for (int i = 0; i < below; i++) count += peer(i)->slots[0];
  meet_warp();
  return count;
}
inline int dechaff_lanes_before(int flag) { return count_lanes(flag, lane()); }
inline int dechaff_lanes_with(int flag) { return count_lanes(flag, 32); }
inline float dechaff_reciprocal_root(float value) { return 1 / std::sqrt(value); }

static void (*kernel_under_test)();
static void enter() {
  kernel_under_test();
  wait_for_copies(0);
  current->done = true;
  while (true) yield_fibre();
}

static void run_block(int threads) {
  std::memset(emulated_shared, 0xff, kSharedBytes);
  int warp_count = (threads + 31) / 32;
  warps.assign(warp_count, Meeting());
  for (int i = 0; i < warp_count; i++) warps[i].members = threads - i * 32 < 32 ? threads - i * 32 : 32;
  block_meeting = Meeting();
  block_meeting.members = threads;
  while ((int)fibres.size() < threads) fibres.push_back(new Fibre());
  for (int i = 0; i < threads; i++) {
    Fibre* fibre = fibres[i];
    fibre->done = false;
    fibre->number = i;
    fibre->groups.clear();
    fibre->open.clear();
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = fibre->stack.data();
    fibre->context.uc_stack.ss_size = fibre->stack.size();
    fibre->context.uc_link = nullptr;
    makecontext(&fibre->context, enter, 0);
  }
  int running = threads;
  while (running) {
    running = 0;
    for (int i = 0; i < threads; i++) {
      if (fibres[i]->done) continue;
      current = fibres[i];
      threadIdx.x = i % blockDim_.x;
      threadIdx.y = i / blockDim_.x % blockDim_.y;
      threadIdx.z = i / blockDim_.x / blockDim_.y;
      swapcontext(&scheduler, &current->context);
      running += !fibres[i]->done;
    }
  }
}

static void run_grid(const int* grid, const int* block, void (*kernel)()) {
  kernel_under_test = kernel;
  gridDim_ = {grid[0], grid[1], grid[2]};
  blockDim_ = {block[0], block[1], block[2]};
  for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) run_block(block[0] * block[1] * block[2]);
}
