// What this tab knows of itself after it was loaded again: in sessionStorage, where the browser allows it.

const OPEN = "penstock-conversation";
const RUNNING = "penstock-running";

/** The ids of the conversation that was open, or null, and of those in which something was being answered. */
export function remembered() {
  try {
    const running = JSON.parse(sessionStorage.getItem(RUNNING) ?? "[]");
    return { open: sessionStorage.getItem(OPEN), running: Array.isArray(running) ? running : [] };
  } catch {
    return { open: null, running: [] };
  }
}

export function rememberOpen(id) {
  keep(OPEN, id);
}

/** `ids` of conversations; a tab that goes on with their answers takes them over from any other, so each knows its own. */
export function rememberRunning(ids) {
  keep(RUNNING, JSON.stringify([...ids]));
}

function keep(name, value) {
  try {
    if (value === null) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, value);
  } catch {
    // storage is switched off
  }
}
