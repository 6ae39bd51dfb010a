// gelu(x weight + bias) on Hopper by CUTLASS, in one pass: two warpgroups take turns, one multiplies
// while the other applies bias and GELU to the tile before.
//
// Compiled with -DELEMENT=cutlass::half_t or cutlass::bfloat16_t, and with the coefficients
// -DP0 to -DP3 and -DLARGEST_SQUARE of the activation (activations.py). The collectives are spelled
// out, as TVM's package has CUTLASS without its builders.
#include <cutlass/cutlass.h>
#include <cutlass/epilogue/collective/collective_epilogue.hpp>
#include <cutlass/epilogue/dispatch_policy.hpp>
#include <cutlass/epilogue/fusion/operations.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <cutlass/gemm/collective/collective_mma_decl.hpp>
#include <cutlass/gemm/collective/sm90_mma_tma_gmma_ss_warpspecialized.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/dispatch_policy.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/gemm/kernel/tile_scheduler.hpp>

using namespace cute;

template <class T>
struct Activation;

template <>
struct Activation<float> {
  CUTLASS_DEVICE float operator()(float x) const {
    float square = fminf(x * x, LARGEST_SQUARE);
    float polynomial = ((P3 * square + P2) * square + P1) * square + P0;
    float power, inverse;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-x * polynomial));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.f + power));
    return x * inverse;
  }
};

template <int N>
struct Activation<cutlass::Array<float, N>> {
  CUTLASS_DEVICE cutlass::Array<float, N> operator()(cutlass::Array<float, N> const& x) const {
    cutlass::Array<float, N> y;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < N; i++) y[i] = Activation<float>()(x[i]);
    return y;
  }
};

template <int Rows, int Columns>
struct Dense {
  using Element = ELEMENT;
  using Tile = Shape<Int<Rows>, Int<Columns>, _64>;
  using EpilogueTile = Shape<_64, _32>;
  using RowStride = cutlass::detail::TagToStrideC_t<cutlass::layout::RowMajor>;
  using Schedule = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  using StoreAtom = GMMA::Layout_K_SW64_Atom<Element>;

  using EpiloguePolicy = cutlass::epilogue::Sm90TmaWarpSpecialized<4, 2, 16, false, true>;
  using Fusion = cutlass::epilogue::fusion::LinCombPerColBiasEltAct<Activation, Element, float,
                                                                     Element, void, float>;
  using Epilogue = cutlass::epilogue::collective::CollectiveEpilogue<
      EpiloguePolicy, Tile, EpilogueTile, void, RowStride, Element, RowStride,
      cutlass::epilogue::fusion::FusionCallbacks<EpiloguePolicy, Fusion, Tile, EpilogueTile>,
      SM90_TMA_LOAD, StoreAtom, SM75_U32x4_LDSM_N, SM90_TMA_STORE, StoreAtom, SM90_U32x4_STSM_N,
      Copy_Atom<SM90_U32x4_STSM_N, cutlass::half_t>, void>;

  static constexpr int kStageBytes = (Rows + Columns) * 64 * sizeof(Element) + 16;
  static constexpr int kStages =
      (232448 - static_cast<int>(sizeof(typename Epilogue::SharedStorage))) / kStageBytes;
  using Mma = decltype(make_tiled_mma(
      GMMA::ss_op_selector<Element, Element, float, Tile, GMMA::Major::K, GMMA::Major::MN>()));
  using Mainloop = cutlass::gemm::collective::CollectiveMma<
      cutlass::gemm::MainloopSm90TmaGmmaWarpSpecialized<kStages, Shape<_1, _1, _1>, Schedule>, Tile,
      Element, cutlass::detail::TagToStrideA_t<cutlass::layout::RowMajor>, Element,
      cutlass::detail::TagToStrideB_t<cutlass::layout::RowMajor>, Mma, SM90_TMA_LOAD,
      GMMA::Layout_K_SW128_Atom<Element>, void, identity, SM90_TMA_LOAD,
      GMMA::Layout_MN_SW128_Atom<Element>, void, identity>;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Epilogue,
                                                       cutlass::gemm::PersistentScheduler>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  static int run(const void* x, const void* weight, const void* bias, void* y, int tokens,
                 int outputs, int inputs, int multiprocessors, cudaStream_t stream) {
    auto data = [](const void* pointer) { return static_cast<const Element*>(pointer); };
    typename Gemm::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGemm,
        {tokens, outputs, inputs, 1},
        {data(x), {inputs, _1{}, 0}, data(weight), {_1{}, outputs, 0}},
        {{}, nullptr, {}, static_cast<Element*>(y), {outputs, _1{}, 0}}};
    arguments.epilogue.thread.alpha = 1.f;
    arguments.epilogue.thread.beta = 0.f;
    arguments.epilogue.thread.bias_ptr = data(bias);
    arguments.hw_info.sm_count = multiprocessors;
    Gemm gemm;
    if (Gemm::get_workspace_size(arguments) != 0) return -1;
    auto status = gemm.can_implement(arguments);
    if (status == cutlass::Status::kSuccess) status = gemm.initialize(arguments, nullptr, stream);
    if (status == cutlass::Status::kSuccess) status = gemm.run(stream);
    return static_cast<int>(status);
  }
};

#define DENSE(ROWS, COLUMNS)                                                                       \
  extern "C" int dense_##ROWS##x##COLUMNS(const void* x, const void* weight, const void* bias,     \
                                          void* y, int tokens, int outputs, int inputs,            \
                                          int multiprocessors, cudaStream_t stream) {              \
    return Dense<ROWS, COLUMNS>::run(x, weight, bias, y, tokens, outputs, inputs, multiprocessors, \
                                     stream);                                                      \
  }

DENSE(64, 128)
DENSE(64, 256)
DENSE(128, 128)
