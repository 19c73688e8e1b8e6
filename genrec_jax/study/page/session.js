// What one rater has done so far. It is kept in the browser, so that a reload
// goes on where it was; nothing of it leaves the browser before the end.

// Names that recruiting sites put into the address of the page.
const IDS = ["PROLIFIC_PID", "STUDY_ID", "SESSION_ID"];

function parameter(name) {
  const value = new URLSearchParams(location.search).get(name) || "";
  return /^[\w-]{1,64}$/.test(value) ? value : "";
}

function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

// The block of a new rater: the address may give it; the study's own server
// knows which was answered least; on other hosts it is random.
async function chooseBlock(study) {
  const count = study.blocks.length;
  const given = Number.parseInt(parameter("block"), 10);
  if (given >= 0 && given < count) return given;
  if (study.collect === "votes") {
    try {
      const reply = await fetch("block", { cache: "no-store" });
      const { block } = reply.ok ? await reply.json() : {};
      if (Number.isInteger(block) && block >= 0 && block < count) return block;
    } catch {
      // Not this study's own server: a random one.
    }
  }
  return crypto.getRandomValues(new Uint32Array(1))[0] % count;
}

export async function openSession(study) {
  const ids = Object.fromEntries(
    IDS.map((name) => [name.toLowerCase(), parameter(name)]),
  );
  // Of another participant nothing goes on, also in the same browser.
  const place = `study/${study.study}/${ids.prolific_pid}`;
  let state = null;
  try {
    state = JSON.parse(localStorage.getItem(place));
  } catch {
    // No storage, or nothing of ours in it.
  }
  if (!state || !study.blocks[state.block]) {
    state = {
      session: randomName(),
      block: await chooseBlock(study),
      screen: "consent",
      position: 0, // of the task in its block
      question: 0,
      answers: {}, // {task: {answers, copies, milliseconds}}
    };
  }
  const save = () => {
    try {
      localStorage.setItem(place, JSON.stringify(state));
    } catch {
      // Without storage a reload begins anew; all else works.
    }
  };
  save();
  return {
    state,
    save,
    ids,
    forget: () => localStorage.removeItem(place),
    tasks: study.blocks[state.block],
    // The same vote has the same id however often it is sent.
    votes: () =>
      study.blocks[state.block]
        .filter((task) => state.answers[task.id])
        .map((task) => ({
          id: `${state.session}-${task.id}`,
          study: study.study,
          task: task.id,
          session: state.session,
          ...ids,
          ...state.answers[task.id],
        })),
  };
}
