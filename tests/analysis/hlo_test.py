"""Counts read from compiled HLO against those done by hand."""

import functools
import re

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import pytest

from genrec_jax.analysis import hlo, hlo_collectives, hlo_cost, hlo_walk
from genrec_jax.core import mesh as mesh_lib


def compiled_text(function, *shapes, **options):
  shapes = [
    s
    if isinstance(s, jax.ShapeDtypeStruct)
    else jax.ShapeDtypeStruct(s, jnp.float32)
    for s in shapes
  ]
  return jax.jit(function, **options).lower(*shapes).compile().as_text()


def compiled(function, *shapes, **options):
  return hlo.parse(compiled_text(function, *shapes, **options))


def scanned(x, w, length):
  return lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=length)[0]


def nested(x, w):
  def body(x, _):
    with jax.named_scope("inner"):
      return scanned(x, w, 5), None

  with jax.named_scope("outer"):
    return lax.scan(body, x @ w, length=7)[0]


@pytest.fixture(scope="module")
def program():
  return compiled(nested, (4, 16), (16, 16))


def test_nested_loops_multiply(program):
  one = 2 * 4 * 16 * 16
  assert hlo_cost.flops(program) == (1 + 7 * 5) * one
  assert hlo_cost.flops(program, "outer") == 7 * 5 * one
  assert hlo_cost.flops(program, "inner") == 7 * 5 * one
  assert hlo_cost.flops(program, "absent") == 0
  outer, inner = hlo_walk.loops(program)
  assert (outer.trip_count, outer.times) == (7, 1)
  assert (inner.trip_count, inner.times) == (5, 7)
  assert outer.is_of("outer")
  assert not outer.is_of("inner")
  assert inner.is_of("inner")
  assert not inner.is_of("outer")


def test_bytes_follow_the_loops(program):
  """A product reads 4 x 16 and 16 x 16, and tanh's pass both ways."""
  per_step = hlo_cost.memory_bytes(program, "inner") / 35
  product = 4 * (4 * 16 + 16 * 16 + 4 * 16)
  assert product <= per_step <= product + 4 * 4 * 4 * 16


COUNTED = """
HloModule counted

%less (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %less = pred[] compare(%a, %b), direction=LT
}

%advance (a: s32[]) -> (s32[], s32[]) {
  %a = s32[] parameter(0)
  %by = s32[] constant(STEP)
  %sum = s32[] add(%a, %by)
  ROOT %both = (s32[], s32[]) tuple(%a, %sum)
}

%body (arg: (s32[], f32[2], s32[])) -> (s32[], f32[2], s32[]) {
  %arg = (s32[], f32[2]{0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %one = s32[] constant(STEP)
  %next = s32[] NEXT
  %x = f32[2]{0} get-tuple-element(%arg), index=1
  %y = f32[2]{0} negate(%x)
  %n = s32[] get-tuple-element(%arg), index=2
  ROOT %out = (s32[], f32[2]{0}, s32[]) tuple(%next, %y, %n)
}

%condition (arg: (s32[], f32[2], s32[])) -> pred[] {
  %arg = (s32[], f32[2]{0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %n = s32[] get-tuple-element(%arg), index=2
  %limit = s32[] constant(9)
  ROOT %goes_on = pred[] GOES_ON
}

ENTRY %main (x: f32[2], given: s32[]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %given = s32[] parameter(1)
  %three = s32[] constant(3)
  %start = s32[] copy(%three)
  %last = s32[] constant(8)
  %in = (s32[], f32[2]{0}, s32[]) tuple(%start, %x, %last)
  %loop = (s32[], f32[2]{0}, s32[]) while(%in), condition=%condition, body=%body
  ROOT %y = f32[2]{0} get-tuple-element(%loop), index=1
}
"""
ADD = "add(%i, %one)"
LESS = "compare(%i, %limit), direction=LT"
FUSED = "fusion(%i, %limit), kind=kLoop, calls=%less"


@pytest.mark.parametrize(
  ("step", "following", "goes_on", "count"),
  [
    (1, ADD, LESS, 6),
    (2, ADD, LESS, 3),  # 3, 5, 7: as libtpu's windowed products go
    (4, ADD, LESS, 2),  # 3, 7
    (2, "add(%one, %i)", "compare(%limit, %i), direction=GT", 3),
    (2, ADD, "compare(%i, %limit), direction=LE", 4),
    (3, ADD, "compare(%i, %limit), direction=NE", 2),
    (1, "subtract(%i, %one)", "compare(%i, %limit), direction=LT", None),
    (3, "multiply(%i, %one)", LESS, 1),
    (2, ADD, FUSED, 3),
    (2, ADD, "compare(%i, %n), direction=LT", 3),  # a limit that is carried
    (0, ADD, LESS, None),  # for ever
  ],
)
def test_a_loop_is_counted_out_if_xla_tells_no_count(
  step, following, goes_on, count
):
  text = COUNTED.replace("STEP", str(step)).replace("NEXT", following)
  text = text.replace("GOES_ON", goes_on)
  [loop] = hlo_walk.loops(hlo.parse(text))
  assert loop.trip_count == count
  assert [a.shape for a in loop.carried] == [(), (2,), ()]
  # Nothing is said where the start or the limit is the program's own.
  for known, given in (("tuple(%start,", "tuple(%given,"), ("constant(9)", "")):
    unknown = text.replace(known, given or "constant({9})")
    if known == "constant(9)" and "%limit" not in goes_on:
      continue
    assert hlo_walk.loops(hlo.parse(unknown))[0].trip_count is None


def test_a_counter_in_a_fusion_of_several_results():
  text = COUNTED.replace("STEP", "2").replace("GOES_ON", LESS)
  text = text.replace(
    "%next = s32[] NEXT",
    "%parts = (s32[], s32[]) fusion(%i), kind=kLoop, calls=%advance\n"
    "  %next = s32[] get-tuple-element(%parts), index=1",
  )
  [loop] = hlo_walk.loops(hlo.parse(text))
  assert loop.trip_count == 3


def test_no_program_without_an_entry():
  with pytest.raises(ValueError, match="no ENTRY"):
    hlo.parse("HloModule empty")


@pytest.mark.parametrize("by", [1, 2, 5])
def test_a_compiled_loop_is_counted_as_xla_counts_it(by):
  """16 / by products, rounded up, whether XLA writes the count or not."""

  def function(x, w):
    def body(carry):
      i, x = carry
      return i + by, jnp.tanh(x @ w)

    return lax.while_loop(lambda carry: carry[0] < 16, body, (0, x))[1]

  text = compiled_text(function, (4, 8), (8, 8))
  silent = re.sub(r'"known_trip_count":\{[^}]*\},?', "", text)
  assert "known_trip_count" not in silent
  for written in (text, silent):
    program = hlo.parse(written)
    [loop] = hlo_walk.loops(program)
    assert loop.trip_count == -(-16 // by)
    assert hlo_cost.flops(program) == loop.trip_count * 2 * 4 * 8 * 8


def test_a_loop_that_ends_by_its_data_has_no_trip_count():
  program = compiled(
    lambda x: lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x * 2, x), (3,)
  )
  [loop] = hlo_walk.loops(program)
  assert loop.trip_count is None


def test_a_batched_product():
  program = compiled(
    lambda a, b: jnp.einsum("bmk,bnk->bmn", a, b), (3, 4, 5), (3, 6, 5)
  )
  assert hlo_cost.flops(program) == 2 * 3 * 4 * 6 * 5


def test_a_convolution_counts_no_padding():
  def conv(x, kernel):
    return lax.conv_general_dilated(
      x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  program = compiled(conv, (2, 6, 6, 3), (3, 3, 3, 4))
  # Stride 2 over 6 places: the pads of SAME are (0, 1), so of 3 windows of 3
  # places the last has one place outside.
  assert hlo_cost.flops(program) == 2 * 2 * 3 * 4 * (3 * 3 - 1) ** 2


def test_a_batched_product_written_as_a_convolution():
  """As TPUs have it: a window over the batch, all of it but one a hole."""
  text = """
HloModule tpu

%fused (a: bf16[8,4,16], b: bf16[8,16,32]) -> bf16[8,4,32] {
  %a = bf16[8,4,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[8,16,32]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[8,4,32]{2,1,0} convolution(%a, %b), WINDOW
}

ENTRY %main (a: bf16[8,4,16], b: bf16[8,16,32]) -> bf16[8,4,32] {
  %a = bf16[8,4,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[8,16,32]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %y = bf16[8,4,32]{2,1,0:T(8,128)(2,1)} fusion(%a, %b), calls=%fused
}
"""
  window = "window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf"
  program = hlo.parse(text.replace("WINDOW", window))
  assert hlo_cost.flops(program) == 2 * 8 * 4 * 16 * 32
  # What lies in another memory space, S(1), does not pass the main memory.
  assert hlo_cost.memory_bytes(program) == 2 * 8 * 4 * (16 + 32)


def test_a_slice_of_a_stack_costs_a_slice():
  def stack(x, w):
    return lax.scan(lambda x, w: (x @ w, x), x, w)

  program = compiled(stack, (4, 64), (10, 64, 64))
  whole = 4 * 10 * 64 * 64
  assert whole <= hlo_cost.memory_bytes(program) < 4 * whole
  assert hlo_cost.flops(program) == 10 * 2 * 4 * 64 * 64


def test_a_slice_in_a_fusion_in_a_fusion_costs_a_slice():
  """As libtpu writes a layer's product, here of two layers at a time."""
  text = """
HloModule tpu

%slice (stack: f32[12,16,16], i: s32[]) -> f32[16,16] {
  %stack = f32[12,16,16]{2,1,0} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,16,16]{2,1,0} dynamic-slice(%stack, %i, %zero, %zero)
  ROOT %w = f32[16,16]{1,0} bitcast(%one)
}

%product (x: f32[4,16], stack: f32[12,16,16], i: s32[]) -> f32[4,16] {
  %x = f32[4,16]{1,0} parameter(0)
  %stack = f32[12,16,16]{2,1,0} parameter(1)
  %i = s32[]{:T(128)S(6)} parameter(2)
  %w = f32[16,16]{1,0} fusion(%stack, %i), kind=kLoop, calls=%slice
  ROOT %y = f32[4,16]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
}

%body {
  %arg = (s32[], f32[4,16]{1,0}, f32[12,16,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = f32[4,16]{1,0} get-tuple-element(%arg), index=1
  %stack = f32[12,16,16]{2,1,0} get-tuple-element(%arg), index=2
  %one = s32[]{:S(6)} constant(1)
  %two = s32[]{:S(6)} constant(2)
  %here = s32[]{:S(6)} add(%i, %one)
  %next = s32[]{:S(6)} add(%i, %two)
  %y = f32[4,16]{1,0} fusion(%x, %stack, %i), kind=kOutput, calls=%product
  %z = f32[4,16]{1,0} fusion(%y, %stack, %here), kind=kOutput, calls=%product
  ROOT %out = (s32[], f32[4,16], f32[12,16,16]) tuple(%next, %z, %stack)
}

%condition (arg: (s32[], f32[4,16], f32[12,16,16])) -> pred[] {
  %arg = (s32[], f32[4,16]{1,0}, f32[12,16,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %limit = s32[] constant(12)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[4,16], stack: f32[12,16,16]) -> f32[4,16] {
  %x = f32[4,16]{1,0} parameter(0)
  %stack = f32[12,16,16]{2,1,0} parameter(1)
  %zero = s32[] constant(0)
  %in = (s32[], f32[4,16]{1,0}, f32[12,16,16]{2,1,0}) tuple(%zero, %x, %stack)
  %loop = (s32[], f32[4,16], f32[12,16,16]) while(%in), CALLED
  ROOT %y = f32[4,16]{1,0} get-tuple-element(%loop), index=1
}
"""
  called = "condition=%condition, body=%body"
  program = hlo.parse(text.replace("CALLED", called))
  [loop] = hlo_walk.loops(program)
  assert loop.trip_count == 6
  assert hlo_cost.flops(program) == 12 * 2 * 4 * 16 * 16
  # Each layer once, what goes in and comes out; the counter, read thrice.
  layers = 12 * 4 * (16 * 16 + 2 * 4 * 16)
  assert hlo_cost.memory_bytes(program) == layers + 6 * 3 * 4


def test_a_cache_written_in_a_fusion_in_a_fusion_costs_what_is_written():
  text = """
HloModule tpu

%update (cache: f32[64,16], row: f32[1,16], i: s32[]) -> f32[64,16] {
  %cache = f32[64,16]{1,0} parameter(0)
  %row = f32[1,16]{1,0} parameter(1)
  %i = s32[]{:S(6)} parameter(2)
  %zero = s32[] constant(0)
  ROOT %new = f32[64,16]{1,0} dynamic-update-slice(%cache, %row, %i, %zero)
}

%both (row: f32[1,16], cache: f32[64,16], i: s32[]) -> (f32[1,16], f32[64,16]) {
  %row = f32[1,16]{1,0} parameter(0)
  %cache = f32[64,16]{1,0} parameter(1)
  %i = s32[]{:S(6)} parameter(2)
  %twice = f32[1,16]{1,0} add(%row, %row)
  %new = f32[64,16]{1,0} fusion(%cache, %twice, %i), kind=kLoop, calls=%update
  ROOT %out = (f32[1,16]{1,0}, f32[64,16]{1,0}) tuple(%twice, %new)
}

ENTRY %main (row: f32[1,16], cache: f32[64,16], i: s32[]) -> f32[64,16] {
  %row = f32[1,16]{1,0} parameter(0)
  %cache = f32[64,16]{1,0SPACE} parameter(1)
  %i = s32[]{:S(6)} parameter(2)
  %y = (f32[1,16], f32[64,16]{1,0SPACE}) fusion(%row, %cache, %i), calls=%both
  ROOT %new = f32[64,16]{1,0SPACE} get-tuple-element(%y), index=1
}
"""
  row = 4 * 16
  # The row, its double, and its double in the cache.
  program = hlo.parse(text.replace("SPACE", ""))
  assert hlo_cost.memory_bytes(program) == 3 * row
  # In another memory space only the first two pass the main memory.
  program = hlo.parse(text.replace("SPACE", ":S(1)"))
  assert hlo_cost.memory_bytes(program) == 2 * row
  # What starts as zeros is written whole.
  whole = text.replace(
    "%cache = f32[64,16]{1,0} parameter(0)\n  %row",
    "%fill = f32[] constant(0)\n"
    "  %cache = f32[64,16]{1,0} broadcast(%fill), dimensions={}\n  %row",
  )
  program = hlo.parse(whole.replace("SPACE", ""))
  assert hlo_cost.memory_bytes(program) == (2 + 64) * row


def test_a_fusion_may_end_in_one_instruction_of_several_results():
  text = """
HloModule tpu

%less (a: f32[], b: f32[], c: s32[], d: s32[]) -> pred[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  %c = s32[] parameter(2)
  %d = s32[] parameter(3)
  ROOT %less = pred[] compare(%a, %b), direction=LT
}

%sorted (x: f32[16], i: s32[16]) -> (f32[16], s32[16]) {
  %x = f32[16]{0} parameter(0)
  %i = s32[16]{0} parameter(1)
  ROOT %s = (f32[16]{0}, s32[16]{0}) sort(%x, %i), to_apply=%less
}

ENTRY %main (x: f32[16], i: s32[16]) -> (f32[16], s32[16]) {
  %x = f32[16]{0} parameter(0)
  %i = s32[16]{0} parameter(1)
  ROOT %s = (f32[16]{0}, s32[16]{0}) fusion(%x, %i), calls=%sorted
}
"""
  assert hlo_cost.memory_bytes(hlo.parse(text)) == 4 * 4 * 16


def test_an_asynchronous_slice_costs_a_slice():
  text = """
HloModule tpu

ENTRY %main (stack: f32[12,16]) -> f32[2,16] {
  %stack = f32[12,16]{1,0} parameter(0)
  %start = ((f32[12,16]), f32[2,16]{1,0:S(1)}, u32[]{:S(2)}) RUN
  ROOT %done = f32[2,16]{1,0:S(1)} slice-done(%start)
}
"""
  text = text.replace("RUN", "slice-start(%stack), slice={[2:4], [0:16]}")
  assert hlo_cost.memory_bytes(hlo.parse(text)) == 4 * 2 * 16


def test_a_gather_in_a_loop_costs_its_rows():
  def function(table, ids):
    def body(total, row):
      return total + table[row], None

    return lax.scan(body, jnp.zeros((4, 32)), ids)[0]

  ids = jax.ShapeDtypeStruct((10, 4), jnp.int32)
  program = compiled(function, (5000, 32), ids)
  rows = 10 * 4 * 4 * 32
  # Read with the sum so far, written as the next; indices are the rest.
  assert 3 * rows <= hlo_cost.memory_bytes(program) <= 5 * rows


def test_a_cache_written_in_a_loop_costs_its_rows():
  def function(cache, rows):
    def body(cache, item):
      i, row = item
      return lax.dynamic_update_slice(cache, row[None], (i, 0)), None

    return lax.scan(body, cache, (jnp.arange(10), rows))[0]

  program = compiled(function, (5000, 32), (10, 32), donate_argnums=0)
  [loop] = hlo_walk.loops(program)
  inside = sum(
    step.times * hlo_cost._traffic(program, step)
    for step in hlo_walk.walk(program)
    if step.loops and not step.fused
  )
  row = 4 * 32
  assert loop.trip_count == 10
  assert 10 * 2 * row <= inside <= 10 * 4 * row


@pytest.fixture(scope="module")
def mesh():
  return mesh_lib.make_mesh()


def abstract(mesh, shape, *spec):
  return jax.ShapeDtypeStruct(
    shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec))
  )


def test_collectives_are_found_where_they_run(mesh):
  """FSDP: each step gathers the layer it needs; a gradient's sum is outside."""
  whole = NamedSharding(mesh, P())

  def loss(w, x):
    def layer(x, w):
      w = lax.with_sharding_constraint(w, whole)
      return jnp.tanh(x @ w), None

    with jax.named_scope("stack"):
      x = lax.scan(layer, x, w)[0]
    return jnp.sum(x**2)

  program = compiled(
    loss,
    abstract(mesh, (6, 16, 16), None, "data", None),
    abstract(mesh, (8, 16), "data", None),
  )
  found = {
    (c.kind, c.within("stack")): c for c in hlo_collectives.find(program)
  }
  gather = found["all-gather", True]
  assert gather.times == 6
  assert gather.nbytes == 4 * 16 * 16
  assert gather.loops[-1].trip_count == 6
  assert found["all-reduce", False].times == 1
  assert found["all-reduce", False].nbytes == 4


def test_numbers_are_those_of_one_device(mesh):
  product = functools.partial(jnp.einsum, "mk,kn->mn")
  program = compiled(
    product, abstract(mesh, (16, 8), "data"), abstract(mesh, (8, 8))
  )
  assert hlo_cost.flops(program) == 2 * 2 * 8 * 8
  assert not hlo_collectives.find(program)


@pytest.mark.parametrize(
  ("dtype", "nbytes"), [("bf16", 12), ("pred", 6), ("s4", 3), ("f8e4m3fn", 6)]
)
def test_sizes_of_types(dtype, nbytes):
  array = hlo.Array(dtype, (2, 3))
  assert array.size == 6
  assert array.nbytes == nbytes


def test_a_transfer_spread_over_fusions_is_one():
  def part(name):
    return f"""
%{name} (p: f32[2]) -> f32[16] {{
  %p = f32[2]{{0}} parameter(0)
  ROOT %g = f32[16]{{0}} all-gather(%p), channel_id=4, dimensions={{0}}, CHAIN
}}
"""

  text = f"""
HloModule spread
{part("first")}{part("second")}
ENTRY %main (x: f32[2]) -> f32[16] {{
  %x = f32[2]{{0}} parameter(0)
  %y = f32[16]{{0}} fusion(%x), kind=kCustom, calls=%first
  ROOT %z = f32[16]{{0}} fusion(%x), kind=kCustom, calls=%second
}}
"""
  assert len(hlo_collectives.find(hlo.parse(text))) == 2
  text = text.replace("CHAIN", 'frontend_attributes={chain_id="7"}')
  [gather] = hlo_collectives.find(hlo.parse(text))
  assert (gather.nbytes, gather.times) == (64, 1)
