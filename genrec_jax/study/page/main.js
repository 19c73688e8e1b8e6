// The course of a study: consent, instructions, practice, pairs, the end.

import { openSession } from "./session.js";
import * as screens from "./screens.js";
import { saveAsFile, send } from "./sending.js";

let study, session, state;
let since = 0; // when the question was shown
let busy = true; // no answer counts before its images are there
let keys = {}; // what keys do on this screen

function go(screen) {
  state.screen = screen;
  session.save();
  keys = {};
  return SCREENS[screen]();
}

function press(event) {
  // A key that is held down, or pressed for the browser, is no answer.
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = keys[event.key];
  if (!act) return;
  // A focused button takes Enter itself.
  if (event.key === "Enter" && event.target.closest?.("button")) return;
  event.preventDefault();
  act();
}

const SCREENS = {
  consent() {
    const agree = () => go("instructions");
    keys = { Enter: agree };
    screens.consent(study, agree, () => {
      keys = {};
      screens.declined();
    });
  },
  instructions() {
    const next = () => go("practice");
    keys = { Enter: next };
    screens.instructions(study, session.tasks.length, next);
  },
  practice: () => practise({ question: 0, copies: [], note: "" }),
  pairs: () => ask(),
  sending: deliver,
  finished() {
    const ids = Object.values(session.ids).some(Boolean);
    screens.finished(study, state, ids ? null : () => {
      session.forget();
      location.reload();
    });
  },
};

function listen(on) {
  const free = (act) => () => {
    if (!busy) act();
  };
  keys = {
    1: free(() => on.answer("left")),
    2: free(() => on.answer("right")),
    0: free(() => on.answer("neither")),
    3: free(() => on.mark("left")),
    4: free(() => on.mark("right")),
    Backspace: free(on.back),
  };
}

async function showPair(task, view, on) {
  busy = true;
  const free = (act) => (side) => {
    if (!busy) act(side);
  };
  listen(on);
  const guarded = {
    answer: free(on.answer),
    mark: free(on.mark),
    back: free(on.back),
  };
  try {
    await screens.pair(study, task, view, guarded);
    busy = false;
    screens.ready();
  } catch {
    screens.message(
      "A picture did not arrive",
      ["Are you still connected? Your answers so far are kept."],
      screens.button("Try again", () => location.reload(), { class: "main" }),
    );
  }
}

function toggled(copies, side) {
  return ["left", "right"].filter(
    (each) => copies.includes(each) !== (each === side),
  );
}

// The practice pair: its left image is out of someone else's history.
function practise(view) {
  const texts = Object.values(study.questions);
  const on = {
    answer(side) {
      if (view.question === 0 && side !== "right") {
        practise({ ...view, note: "Look again: the right picture is one of those that this person liked, so it fits better. Press 2 or tap Right." });
      } else if (view.question + 1 < texts.length) {
        practise({ ...view, question: view.question + 1, note: "", focus: null });
      } else if (!view.copies.includes("right")) {
        practise({ ...view, note: "The right picture is also in the row above: mark it as a copy, with 4 or the button below it. Then answer again." });
      } else {
        const next = () => go("pairs");
        screens.message(
          "Now it begins",
          [`That was the practice. ${session.tasks.length} pairs follow; they get along without hints.`],
          screens.button(["Start ", screens.key("Enter")], next, { class: "main" }),
        );
        keys = { Enter: next };
      }
    },
    mark: (side) => practise({ ...view, copies: toggled(view.copies, side), focus: screens.focusedCopy() }),
    back: () => view.question && practise({ ...view, question: view.question - 1, note: "" }),
  };
  return showPair(
    study.practice,
    {
      ...view,
      text: texts[view.question],
      progress: "Practice",
      done: 0,
      of: session.tasks.length,
      back: view.question > 0,
    },
    on,
  );
}

// The question that is next, of the pair that is next.
async function ask(focus) {
  const task = session.tasks[state.position];
  if (!task) return go("sending");
  const names = Object.keys(study.questions);
  const name = names[state.question];
  const record = (state.answers[task.id] ??= {
    answers: {},
    copies: [],
    milliseconds: {},
  });
  const spend = () => {
    const spent = Math.round(performance.now() - since);
    record.milliseconds[name] = (record.milliseconds[name] || 0) + spent;
  };
  const on = {
    async answer(side) {
      busy = true; // one key, one answer
      spend();
      record.answers[name] = side;
      state.question += 1;
      if (state.question === names.length) {
        state.question = 0;
        state.position += 1;
      }
      session.save();
      highlight(side);
      await new Promise((resolve) => setTimeout(resolve, 180));
      ask();
    },
    mark(side) {
      spend();
      record.copies = toggled(record.copies, side);
      session.save();
      ask(screens.focusedCopy());
    },
    back() {
      if (state.question > 0) {
        state.question -= 1;
      } else if (state.position > 0) {
        state.position -= 1;
        state.question = names.length - 1;
      } else {
        return;
      }
      session.save();
      ask();
    },
  };
  await showPair(
    task,
    {
      question: state.question,
      text: study.questions[name],
      copies: record.copies,
      chosen: record.answers[name],
      progress: `${state.position + 1} of ${session.tasks.length}`,
      done: state.position + state.question / names.length,
      of: session.tasks.length,
      back: state.position + state.question > 0,
      note: "",
      focus,
    },
    on,
  );
  since = performance.now();
  preload(session.tasks[state.position + 1]);
}

// So that the hand sees what it did, before the next question comes.
function highlight(side) {
  document.querySelector(`[data-answer=${side}]`)?.classList.add("chosen");
  const place = { left: 0, right: 1 }[side];
  document.querySelectorAll(".option")[place]?.classList.add("chosen");
}

function preload(task) {
  if (!task) return;
  const history = study.histories[task.history].map((item) => item.image);
  for (const source of [task.left, task.right, ...history]) {
    new Image().src = source;
  }
}

async function deliver() {
  const votes = session.votes();
  const save = () => {
    saveAsFile(study.study, votes, state.session);
    state.saved = "file";
    go("finished");
  };
  const file = screens.button("Save my answers as a file", save, {
    class: study.collect ? "" : "main",
  });
  if (!study.collect) {
    screens.message(
      "That was the last pair",
      ["Save your answers as a file, and give it to the people who asked you."],
      file,
    );
    return;
  }
  screens.message("That was the last pair", ["Sending your answers …"]);
  try {
    await send(study.collect, study.study, votes);
    state.saved = "sent";
    go("finished");
  } catch {
    screens.message(
      "Your answers could not be sent",
      ["They are kept in this browser. Try again, or save them as a file and send it to the people who asked you."],
      screens.button("Try again", deliver, { class: "main" }),
      file,
    );
  }
}

async function begin() {
  const reply = await fetch("tasks.json", { cache: "no-store" });
  study = await reply.json();
  document.title = study.title;
  session = await openSession(study);
  state = session.state;
  document.addEventListener("keydown", press);
  await go(state.screen);
}

begin().catch(() =>
  screens.message("The study could not be loaded", [
    "Are you connected? Load this page again in a minute.",
  ]),
);
