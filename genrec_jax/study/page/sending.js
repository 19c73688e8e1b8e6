// Votes go to the address that the study names, or into a file.

const TRIES = 4;

const pause = (seconds) =>
  new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Resolves once the votes are stored; they may be sent again without harm.
export async function send(address, study, votes) {
  const body = JSON.stringify({ study, votes });
  for (let attempt = 1; ; attempt += 1) {
    let wait = 2 ** attempt;
    try {
      const reply = await fetch(address, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body,
        credentials: "omit",
        cache: "no-store",
      });
      if (reply.ok) return;
      if (reply.status !== 429 && reply.status < 500) {
        throw Object.assign(new Error(), { refused: true });
      }
      wait = Number(reply.headers.get("Retry-After")) || wait;
    } catch (error) {
      if (error.refused) throw error;
    }
    if (attempt === TRIES) throw new Error("not sent");
    await pause(Math.min(wait, 10));
  }
}

export function saveAsFile(study, votes, session) {
  const text = JSON.stringify({ study, votes }, null, 1);
  const link = document.createElement("a");
  const file = new Blob([text], { type: "application/json" });
  link.href = URL.createObjectURL(file);
  link.download = `votes-${session.slice(0, 12)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
