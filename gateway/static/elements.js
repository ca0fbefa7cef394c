// Small helpers of everything that draws. Text goes into the page as text nodes and in no other way.

export const byId = (id) => document.getElementById(id);

export function element(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.textContent = text;
  return node;
}

export function button(label, run, className = "link", title = "") {
  const node = element("button", className, label);
  node.type = "button";
  if (title) {
    node.title = title;
    node.ariaLabel = title;
  }
  node.addEventListener("click", () => run(node));
  return node;
}

/** Puts text on the clipboard, and says so on the button for a moment. */
export async function copy(text, node) {
  node.dataset.label ??= node.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text);
  }
  node.textContent = "Copied";
  setTimeout(() => (node.textContent = node.dataset.label), 1500);
}

/** Where the page is not served over https, there is no navigator.clipboard. */
function copyBySelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export function announce(text) {
  byId("announcer").textContent = text;
}

export function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const anchor = element("a");
  Object.assign(anchor, { href: address, download: name });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
