// The panel in which a conversation's settings are changed.

import { efforts } from "./connection.js";
import { element } from "./elements.js";
import { DEFAULTS, fieldsOf } from "./settings.js";

const dialog = document.getElementById("settings");
const form = document.getElementById("settings-form");
const problem = document.getElementById("settings-problem");

/** Reads the form into an object like DEFAULTS. */
function read() {
  const settings = {};
  for (const [name, initial] of Object.entries(DEFAULTS)) {
    const control = form.elements[name];
    settings[name] = typeof initial === "boolean" ? control.checked : control.value;
  }
  return settings;
}

function write(settings) {
  for (const [name, initial] of Object.entries(DEFAULTS)) {
    const control = form.elements[name];
    if (typeof initial === "boolean") control.checked = settings[name] ?? initial;
    else control.value = settings[name] ?? initial;
  }
}

/** What this model may be told of how much to reason, if anything. */
function offerEfforts() {
  const choices = ["", ...efforts].map((effort) => {
    const option = element("option", "", effort || "The model's own");
    option.value = effort;
    return option;
  });
  form.elements.reasoning_effort.replaceChildren(...choices);
  document.getElementById("effort-field").hidden = !efforts.length;
}

/** Says what is wrong, below the field that it is about. Returns that field, or null if nothing is wrong. */
function check() {
  for (const control of form.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-describedby");
  }
  document.getElementById("schema-field").hidden = form.elements.format.value !== "json_schema";
  try {
    fieldsOf(read());
    problem.hidden = true;
    return null;
  } catch (error) {
    const control = form.elements[error.field];
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-describedby", problem.id);
    const label = control.closest("label");
    if (label.nextElementSibling !== problem) label.after(problem);
    problem.textContent = error.message;
    problem.hidden = false;
    return control;
  }
}

/** Opens the panel on `settings`; `changed` hears of what is entered, as it is entered, however wrong. */
export function openPanel(settings, changed) {
  offerEfforts();
  write(settings);
  form.oninput = () => {
    check();
    changed(read());
  };
  check();
  dialog.showModal();
}

document.getElementById("settings-reset").addEventListener("click", () => {
  write(DEFAULTS);
  form.oninput();
});
document.getElementById("settings-close").addEventListener("click", () => dialog.close());
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const wrong = check();
  if (wrong) wrong.focus();
  else dialog.close();
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // outside of it
});
