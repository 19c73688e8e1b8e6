"""Least seconds of phases, on programs whose work is counted by hand."""

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from genrec_jax.analysis import hlo, roofline
from genrec_jax.analysis.hlo_walk import Loop
from genrec_jax.core.chips import Chip

CHIP = Chip(flops=1e3, hbm_rate=1e2, link_rate=10, kinds=())
N = 64
SHAPE = jax.ShapeDtypeStruct((N, N), jnp.float32)


def phases(function, *shapes):
  compiled = jax.jit(function).lower(*shapes).compile()
  found = roofline.phases(hlo.parse(compiled.as_text()), CHIP)
  return {phase.name: phase for phase in found}


def step(x, w):
  with jax.named_scope("prefill"):
    x = x @ w

  def body(x, _):
    return jnp.dot(x, w, precision="highest"), None

  with jax.named_scope("decode"):
    x, _ = lax.scan(body, x, length=5)
  return x @ w


def test_each_scope_has_its_products_as_often_as_they_run():
  found = phases(step, SHAPE, SHAPE)
  one = 2 * N**3 / CHIP.flops
  assert found["prefill"].flop_seconds == pytest.approx(one)
  # Five times in the loop, six passes each.
  assert found["decode"].flop_seconds == pytest.approx(5 * 6 * one)
  assert found[roofline.OTHER].flop_seconds == pytest.approx(one)
  # Two matrices are read and one is written.
  nbytes = 3 * 4 * N**2
  assert found["prefill"].byte_seconds == pytest.approx(nbytes / CHIP.hbm_rate)
  assert list(found) == ["prefill", "decode", roofline.OTHER]


def test_a_gradient_is_a_phase_of_its_own():
  def loss(w, x):
    with jax.named_scope("policy"):
      return jnp.sum(jnp.tanh(x @ w) @ w)

  found = phases(jax.grad(loss), SHAPE, SHAPE)
  one = 2 * N**3 / CHIP.flops
  # Summed, the second product is one of a matrix and a vector, or is not
  # computed at all; the gradients of both are.
  assert found["policy"].flop_seconds >= one
  assert found["policy backward"].flop_seconds >= one
  assert list(found)[:2] == ["policy", "policy backward"]


def test_the_longest_of_three_bounds_a_phase():
  slow = roofline.phase("decode", 1.0, 2.0, 0.5)
  sent = roofline.phase("policy", 0.0, 1.0, 3.0)
  assert (slow.bound, slow.seconds) == ("bytes", 2)
  assert (sent.bound, sent.seconds) == ("links", 3)
  assert roofline.phase("update", 4.0, 1.0, 0.0).bound == "FLOPs"
  assert roofline.seconds([slow, sent]) == 5


@pytest.mark.parametrize(
  ("name", "phase"),
  [
    ("jit(f)/decode/while/body/dot_general", "decode"),
    ("jit(f)/vq_decode/map/conv", "vq_decode"),
    ("jit(f)/transpose(jvp(policy))/dot_general", "policy backward"),
    ("jit(f)/jvp(policy)/dot_general", "policy"),
    ("jit(f)/rollout/policy/jit(clip)/max", "policy"),
    ("jit(f)/while/body/add", "other"),
    ("", "other"),
    ("jit(f)/(a/update/sum:b/transpose(jvp(policy))/dot)", "update"),
    ("jit(f)/(a/sum:b/transpose(jvp(policy))/dot)", "policy backward"),
    # Of two scopes the inner one; what remat computes again is the gradient's.
    ("jit(f)/decode/rewards/dot_general", "rewards"),
    ("jit(f)/policy/rematted_computation/dot", "policy backward"),
    ("jit(f)/predecode/add", "other"),
  ],
)
def test_names_tell_phases(name, phase):
  assert roofline.phase_name(name) == phase


def test_what_has_no_name_counts_to_its_loop():
  loops = tuple(
    Loop("w", name, 1, 1, ())
    for name in ("jit(f)/policy/while", "jit(f)/while")
  )
  assert roofline.phase_name("", loops) == "policy"
  # The innermost that has a scope, and a name of its own before that.
  inner = Loop("v", "jit(f)/policy/decode/while", 1, 1, ())
  assert roofline.phase_name("", (*loops, inner)) == "decode"
  assert roofline.phase_name("jit(f)/update/add", loops) == "update"


@pytest.mark.parametrize(
  ("precision", "passes"),
  [("default", 1), ("high", 3), ("highest", 6)],
)
def test_float32_products_go_through_more_than_once(precision, passes):
  found = phases(lambda x, w: jnp.dot(x, w, precision=precision), SHAPE, SHAPE)
  seconds = passes * 2 * N**3 / CHIP.flops
  assert found["other"].flop_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
  ("attributes", "passes"),
  [
    ("operand_precision={default,highest}", 6),
    ("operand_precision={high,default}, metadata={}", 3),
    ("operand_precision={packed_nibble,default}", 1),
    ("", 1),
  ],
)
def test_the_more_precise_operand_says_how_often(attributes, passes):
  assert roofline._passes(attributes) == passes


def test_what_is_sent_takes_its_time():
  text = """HloModule sent

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

ENTRY %main (x: f32[100]) -> f32[100] {
  %x = f32[100]{0} parameter(0)
  ROOT %r = f32[100]{0} all-reduce(%x), to_apply=%add, NAME
}
"""
  text = text.replace("NAME", 'metadata={op_name="jit(f)/update/psum"}')
  [phase] = roofline.phases(hlo.parse(text), CHIP)
  assert phase.name == "update"
  assert phase.link_seconds == pytest.approx(400 / CHIP.link_rate)
  assert phase.bound == "links"


def test_a_nameless_loop_body_counts_to_its_loop_as_often_as_it_runs():
  text = """HloModule looped

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%body (c: (s32[], f32[100])) -> (s32[], f32[100]) {
  %c = (s32[], f32[100]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[100] get-tuple-element(%c), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %r = f32[100] all-reduce(%x), to_apply=%add
  ROOT %out = (s32[], f32[100]) tuple(%next, %r)
}

%condition (d: (s32[], f32[100])) -> pred[] {
  %d = (s32[], f32[100]) parameter(0)
  %j = s32[] get-tuple-element(%d), index=0
  %end = s32[] constant(7)
  ROOT %less = pred[] compare(%j, %end), direction=LT
}

ENTRY %main (x: f32[100]) -> (s32[], f32[100]) {
  %x.1 = f32[100] parameter(0)
  %zero = s32[] constant(0)
  %in = (s32[], f32[100]) tuple(%zero, %x.1)
  ROOT %w = (s32[], f32[100]) while(%in), CALLED
}
"""
  called = (
    'condition=%condition, body=%body, metadata={op_name="jit(f)/decode/while"}'
  )
  program = hlo.parse(text.replace("CALLED", called))
  found = {phase.name: phase for phase in roofline.phases(program, CHIP)}
  # Seven times; the additions of the body are the loop's, too.
  assert found["decode"].link_seconds == pytest.approx(7 * 400 / CHIP.link_rate)
  assert found["decode"].byte_seconds > 0
  assert found.keys() == {"decode"}
