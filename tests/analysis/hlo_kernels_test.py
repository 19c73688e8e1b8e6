"""Cost of the splash kernel, from the text that libtpu writes of it."""

from genrec_jax.analysis import hlo, hlo_cost, hlo_kernels, hlo_walk

# Two prompts, 3 heads, 1024 tokens, heads 128 wide, blocks of 512: of four
# pairs of blocks a causal mask leaves three.
ROWS, TOKENS, WIDTH, BLOCK, PAIRS = 2 * 3, 1024, 128, 512, 3
Q = f"bf16[2,3,{TOKENS},{WIDTH}]{{3,2,1,0}}"
TEXT = f"""HloModule jit_f

ENTRY %main (q: {Q}, ids: s32[2,8,1024]) -> {Q} {{
  %q = {Q} parameter(0)
  %ids = s32[2,8,1024]{{2,1,0}} parameter(1)
  %splash_mha_fwd_segmented_residuals.1 = {Q} custom-call(%q, %q, %q, %ids), \
custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
"xprof_metadata":"{{\\"block_q\\": 512}}"
}}}}, metadata={{op_name="jit(f)/policy/splash_{PAIRS}x{BLOCK}/pallas_call"}}
  ROOT %splash_mha_dkv_segmented_no_residuals.2 = {Q} custom-call(%q, %q, %q, \
%splash_mha_fwd_segmented_residuals.1), custom_call_target="tpu_custom_call", \
metadata={{op_name="jit(f)/transpose(policy)/splash_{PAIRS}x{BLOCK}/pallas"}}
}}
"""


def test_products_and_what_is_read_again():
  program = hlo.parse(TEXT)
  forward, backward = (
    step
    for step in hlo_walk.walk(program)
    if step.instruction.opcode == "custom-call"
  )
  product = 2 * ROWS * PAIRS * BLOCK**2 * WIDTH
  assert hlo_kernels.flops(forward) == 2 * product
  assert hlo_kernels.flops(backward) == 5 * product
  assert hlo_cost.flops(program) == 7 * product
  # One pair more than rows of blocks: keys and values of a block once more.
  again = ROWS * 2 * BLOCK * WIDTH * 2
  assert hlo_kernels.reads_again(forward) == again
  once = 4 * ROWS * TOKENS * WIDTH * 2 + 2 * 8 * 1024 * 4
  assert hlo_cost.step_bytes(program, forward) == once + again


def test_other_kernels_count_nothing():
  program = hlo.parse(TEXT.replace(f"splash_{PAIRS}x{BLOCK}", "other"))
  assert hlo_cost.flops(program) == 0
