// The screens, made of elements and texts: no text is ever read as HTML.

const root = document.getElementById("screen");

export function element(name, options = {}, ...children) {
  const { class: classes, on = {}, ...attributes } = options;
  const made = document.createElement(name);
  if (classes) made.className = classes;
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) {
    made.addEventListener(event, listener);
  }
  made.append(...children.filter((child) => child !== null)); // strings are text
  return made;
}

export function button(label, press, options = {}) {
  return element(
    "button",
    { type: "button", ...options, on: { click: press } },
    ...[label].flat(),
  );
}

// The side whose copy button has the focus, if one has.
export function focusedCopy() {
  return document.activeElement?.dataset.copy;
}

// Shows a screen and puts the focus on its heading, where reading begins.
export function show(kind, ...children) {
  root.className = kind;
  delete root.dataset.ready;
  root.replaceChildren(...children.filter((child) => child !== null));
  const heading = root.querySelector("[data-focus]") || root.querySelector("h1");
  if (heading) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
  if (kind !== "task") window.scrollTo(0, 0);
}

// Says, to who drives the page, that answers count from now on.
export function ready() {
  root.dataset.ready = "true";
}

export function key(name) {
  return element("kbd", {}, name);
}

export function consent(study, agree, decline) {
  show(
    "text",
    element("h1", {}, study.title),
    ...study.consent.map((text) => element("p", {}, text)),
    study.contact
      ? element("p", {}, `Questions? Ask ${study.contact}.`)
      : null,
    element(
      "p",
      { class: "actions" },
      button(["I agree and take part ", key("Enter")], agree, {
        class: "main",
        id: "agree",
      }),
      button("No, thanks", decline, {}),
    ),
  );
}

export function declined() {
  show(
    "text",
    element("h1", {}, "Thank you all the same"),
    element("p", {}, "Nothing was recorded. You can close this page."),
  );
}

export function instructions(study, count, go) {
  const item = (...children) => element("li", {}, ...children);
  show(
    "text",
    element("h1", {}, "What to do"),
    element(
      "ol",
      {},
      item("Look at the row of pictures on top: this person liked them, the oldest first."),
      item("Compare the two pictures below, and answer three short questions about them."),
      item("If one of the two is the same as a picture in the row, mark it as a copy, before you answer the last question."),
    ),
    element(
      "p",
      {},
      "Press ", key("1"), " for the left picture, ", key("2"),
      " for the right one, ", key("0"), " if you cannot say; ", key("3"),
      " and ", key("4"), " mark the left or the right one as a copy; ",
      key("⌫"), " goes back. On a phone, tap the buttons.",
    ),
    element(
      "p",
      {},
      `There are ${count} pairs. There is no right answer in most of them: we want to know what you see. In a few there is one, to see that people look.`,
    ),
    element(
      "p",
      { class: "actions" },
      button(["Try one ", key("Enter")], go, { class: "main" }),
    ),
  );
}

// One question about one pair. `task`: {history, left, right}; `on`: what the
// rater does. Returns when both images are there to be seen.
export async function pair(study, task, view, on) {
  const pixels = study.pixelated ? "image pixelated" : "image";
  const image = (source, alt) =>
    element("img", { class: pixels, src: source, alt, draggable: "false" });
  const history = study.histories[task.history];
  const options = ["left", "right"].map((side, i) => {
    const marked = view.copies.includes(side);
    return element(
      "div",
      { class: `option ${view.chosen === side ? "chosen" : ""}` },
      element("span", { class: "number", "aria-hidden": "true" }, `${i + 1}`),
      image(task[side], `Picture ${i + 1}`),
      button(
        [element("span", { class: "box" }, marked ? "✓" : ""), "Copy of one above ", key(`${i + 3}`)],
        () => on.mark(side),
        { class: "copy", "aria-pressed": String(marked), "data-copy": side },
      ),
    );
  });
  const answer = (side, label, name) =>
    button([key(name), label], () => on.answer(side), {
      class: view.chosen === side ? "answer chosen" : "answer",
      "data-answer": side,
    });
  const steps = Object.keys(study.questions).map((_, i) =>
    element("span", { class: i <= view.question ? "dot on" : "dot" }),
  );
  show(
    "task",
    element(
      "header",
      {},
      element(
        "div",
        { class: "line" },
        view.back ? button("← Back", on.back, { class: "back" }) : null,
        element("span", { class: "progress" }, view.progress),
      ),
      element("progress", { max: view.of, value: view.done, "aria-label": "Progress" }),
    ),
    element("p", { class: "caption", id: "liked" }, "This person liked, in this order:"),
    element(
      "ol",
      { class: "history", "aria-labelledby": "liked" },
      ...history.map((item, i) =>
        element(
          "li",
          {},
          image(item.image, item.title || `Liked picture ${i + 1}`),
          item.title ? element("span", { class: "title" }, item.title) : null,
        ),
      ),
    ),
    element("div", { class: "options" }, ...options),
    element(
      "section",
      { class: "ask" },
      element("div", { class: "dots", "aria-hidden": "true" }, ...steps),
      element("h2", { "data-focus": true }, view.text),
      element(
        "div",
        { class: "answers" },
        answer("left", "Left", "1"),
        answer("neither", "Cannot say", "0"),
        answer("right", "Right", "2"),
      ),
      view.note ? element("p", { class: "note", role: "status" }, view.note) : null,
    ),
  );
  // Who marks a copy by Tab and Space goes on from there.
  if (view.focus) root.querySelector(`[data-copy=${view.focus}]`).focus();
  const shown = [...root.querySelectorAll("img")];
  await Promise.all(shown.map((image) => image.decode()));
}

export function message(title, texts, ...buttons) {
  show(
    "text",
    element("h1", {}, title),
    ...texts.map((text) => element("p", {}, text)),
    element("p", { class: "actions" }, ...buttons),
  );
}

export function finished(study, state, again) {
  show(
    "text",
    element("h1", {}, "Thank you!"),
    element(
      "p",
      {},
      state.saved === "file"
        ? "Your answers are in a file in your downloads. Please give it to the people who asked you."
        : "Your answers have arrived.",
    ),
    study.code
      ? element("p", {}, "Your completion code: ", element("strong", { class: "code" }, study.code))
      : null,
    element("p", {}, "You can close this page now."),
    again ? element("p", { class: "actions" }, button("Begin for another person", again)) : null,
  );
}
