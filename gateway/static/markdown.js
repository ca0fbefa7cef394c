// Markdown → DOM nodes. What a model writes goes into text nodes and into the address of a link that was checked, and
// nowhere else, so it can never become markup. Each step looks at the text once: no input makes it slow.

const FENCE = /^ {0,3}(`{3,}|~{3,})(?![`~])([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(\S.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const DEEPEST = 6;

/** Splits text into blocks `{kind, lines, …}`; joined again, `raw` of all blocks is the text, up to its last line end. */
export function blocksOf(text) {
  const lines = text.split("\n");
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    const block = blockAt(lines, at);
    block.raw = lines.slice(at, block.end).join("\n");
    at = block.end;
    if (block.kind !== "blank") blocks.push(block);
  }
  return blocks;
}

function blockAt(lines, at) {
  const line = lines[at];
  if (!line.trim()) return { kind: "blank", end: at + 1 };
  const fence = FENCE.exec(line);
  if (fence) return codeAt(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", level: heading[1].length, text: heading[2].replace(/\s#+$/, ""), end: at + 1 };
  if (RULE.test(line)) return { kind: "rule", end: at + 1 };
  if (QUOTE.test(line)) {
    const end = endOf(lines, at, (each) => QUOTE.test(each));
    return { kind: "quote", text: lines.slice(at, end).map((each) => each.replace(QUOTE, "")).join("\n"), end };
  }
  if (ITEM.test(line)) return listAt(lines, at);
  if (isTable(lines, at)) {
    const end = endOf(lines, at + 2, (each) => each.includes("|"));
    return { kind: "table", rows: [lines[at], ...lines.slice(at + 2, end)].map(cellsOf), end };
  }
  const end = endOf(lines, at + 1, (each, place) => each.trim() !== "" && !interrupts(lines, place));
  return { kind: "paragraph", text: lines.slice(at, end).join("\n").trimStart(), end };
}

function endOf(lines, at, belongs) {
  while (at < lines.length && belongs(lines[at], at)) at++;
  return at;
}

function interrupts(lines, at) {
  const line = lines[at];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line) || isTable(lines, at);
}

function isTable(lines, at) {
  const divider = lines[at + 1];
  return lines[at].includes("|") && Boolean(divider?.includes("|")) && cellsOf(divider).every((cell) => /^:?-+:?$/.test(cell));
}

function cellsOf(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function codeAt(lines, at, [, mark, info]) {
  const language = info.trim().split(/\s/, 1)[0];
  const closes = (line) => line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  const end = endOf(lines, at + 1, (each) => !closes(each));
  return { kind: "code", language, text: lines.slice(at + 1, end).join("\n"), end: Math.min(end + 1, lines.length) };
}

function listAt(lines, at) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(mark);
  const items = [];
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (item && item[1].length <= indent.length && /\d/.test(item[2]) === isOrdered && !RULE.test(lines[at])) {
      items.push([lines[at].slice(item[0].length)]);
    } else if (/^\s+\S/.test(lines[at]) && leading(lines[at]) > indent.length) {
      items.at(-1).push(lines[at].slice(Math.min(leading(lines[at]), indent.length + mark.length + 1)));
    } else if (!lines[at].trim() && belongsToList(lines[at + 1], indent.length, isOrdered)) {
      items.at(-1).push("");
    } else {
      break;
    }
    at++;
  }
  return { kind: "list", start: isOrdered ? parseInt(mark, 10) : null, items: items.map((each) => each.join("\n")), end: at };
}

function leading(line) {
  return line.length - line.trimStart().length;
}

function belongsToList(line, indent, isOrdered) {
  if (line === undefined) return false;
  const item = ITEM.exec(line);
  return item ? item[1].length > indent || /\d/.test(item[2]) === isOrdered : /\S/.test(line) && leading(line) > indent;
}

// --- Blocks → nodes -------------------------------------------------------------------------------------------------

function element(tag, children = [], attributes = {}) {
  const node = document.createElement(tag);
  node.append(...children);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/** The node that shows a block. `copy` is what the button of a code block does with its text. */
export function nodeOf(block, copy, depth = 0) {
  switch (block.kind) {
    case "heading":
      return element(`h${Math.min(block.level + 3, 6)}`, inline(block.text));
    case "rule":
      return element("hr");
    case "code":
      return codeNode(block, copy);
    case "quote":
      return element("blockquote", nested(block.text, copy, depth));
    case "list": {
      const items = block.items.map((item) => element("li", itemNodes(item, copy, depth)));
      if (block.start === null) return element("ul", items);
      return element("ol", items, block.start === 1 ? {} : { start: block.start });
    }
    case "table":
      return tableNode(block.rows);
    default:
      return element("p", inline(block.text));
  }
}

function nested(text, copy, depth) {
  if (depth >= DEEPEST) return [document.createTextNode(text)];
  return blocksOf(text).map((block) => nodeOf(block, copy, depth + 1));
}

/** An item that is one line is no paragraph of its own. */
function itemNodes(text, copy, depth) {
  const nodes = nested(text, copy, depth);
  const [first, ...rest] = nodes;
  return first?.nodeName === "P" && !/\n\s*\n/.test(text) ? [...first.childNodes, ...rest] : nodes;
}

function codeNode({ language, text }, copy) {
  const button = element("button", ["Copy"], { type: "button", class: "link" });
  button.addEventListener("click", () => copy(text, button));
  const head = element("div", [element("span", [language]), button], { class: "code-head" });
  const body = element("pre", [element("code", [text])], { tabindex: "0" });
  return element("div", [head, body], { class: "code" });
}

function tableNode([head, ...rows]) {
  const row = (cells, tag) => element("tr", head.map((_, at) => element(tag, inline(cells[at] ?? ""))));
  const body = element("tbody", rows.map((cells) => row(cells, "td")));
  const table = element("table", [element("thead", [row(head, "th")]), body]);
  return element("div", [table], { class: "table", tabindex: "0" });
}

// --- Text → nodes ---------------------------------------------------------------------------------------------------

const SPECIAL = /\\[!-/:-@[-`{-~]|`+|\*{1,3}|_{1,3}|~~|!?\[|https?:\/\//g;
const LINK = /!?\[([^[\]\n]*)\]\(\s*<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+"[^"\n]*")?\s*\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`\\^{}|[\]]{1,2000}/y;
const TAGS = { "*": "em", _: "em", "**": "strong", __: "strong", "~~": "s" };

/** Nodes for a line of text with emphasis, code and links. */
export function inline(text, depth = 0) {
  const nodes = [];
  const absent = new Set(); // marks that are known not to come again: each is searched in vain once
  let plain = 0;
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const match = SPECIAL.exec(text);
    if (!match) break;
    const found = depth < DEEPEST ? spanAt(text, match, absent, depth) : null;
    if (found) {
      if (match.index > plain) nodes.push(document.createTextNode(text.slice(plain, match.index)));
      nodes.push(found.node);
      plain = found.end;
    }
    at = found?.end ?? match.index + match[0].length;
  }
  if (plain < text.length) nodes.push(document.createTextNode(text.slice(plain)));
  return nodes;
}

function spanAt(text, { 0: mark, index }, absent, depth) {
  if (mark[0] === "\\") return { node: document.createTextNode(mark[1]), end: index + 2 };
  if (mark[0] === "`") return codeSpan(text, mark, index, absent);
  if (mark.endsWith("[")) return linkAt(text, index, depth);
  if (mark.startsWith("http")) return bareLink(text, index);
  return emphasis(text, mark, index, absent, depth);
}

function codeSpan(text, mark, index, absent) {
  if (absent.has(mark)) return null;
  const begin = index + mark.length;
  for (let end = text.indexOf(mark, begin); end >= 0; end = text.indexOf(mark, end)) {
    let after = end;
    while (text[after] === "`") after++;
    if (after - end === mark.length) return { node: element("code", [text.slice(begin, end).replace(/^ (.+) $/s, "$1")]), end: after };
    end = after;
  }
  absent.add(mark);
  return null;
}

function emphasis(text, mark, index, absent, depth) {
  const begin = index + mark.length;
  const isWord = (place) => /[\p{L}\p{N}]/u.test(text[place] ?? "");
  if (absent.has(mark) || /\s/.test(text[begin] ?? " ") || (mark[0] === "_" && isWord(index - 1))) return null;
  for (let end = text.indexOf(mark, begin + 1); end >= 0; end = text.indexOf(mark, end)) {
    const after = end + mark.length;
    const closes = !/\s/.test(text[end - 1]) && text[after] !== mark[0] && text[end - 1] !== mark[0];
    if (closes && !(mark[0] === "_" && isWord(after))) {
      const inner = inline(text.slice(begin, end), depth + 1);
      const node = mark.length < 3 ? element(TAGS[mark], inner) : element("strong", [element("em", inner)]);
      return { node, end: after };
    }
    end = after;
  }
  absent.add(mark);
  return null;
}

/** An address that may be followed, or null. Only the web and mail: a script is not an address. */
export function safeAddress(text) {
  try {
    const address = new URL(text);
    return ["http:", "https:", "mailto:"].includes(address.protocol) ? address.href : null;
  } catch {
    return null; // also what is relative: it would lead to this server
  }
}

function link(children, href) {
  return element("a", children, { href, target: "_blank", rel: "noopener noreferrer nofollow" });
}

function linkAt(text, index, depth) {
  LINK.lastIndex = index;
  const match = LINK.exec(text);
  const href = match && safeAddress(match[2]);
  if (!href) return null; // it stays as it was written
  const label = match[1] ? inline(match[1], DEEPEST) : [document.createTextNode(match[2])];
  return { node: link(label, href), end: index + match[0].length };
}

function bareLink(text, index) {
  ADDRESS.lastIndex = index;
  const written = ADDRESS.exec(text)?.[0].replace(/[.,;:!?)*_~]+$/, "");
  const href = written && safeAddress(written);
  return href ? { node: link([document.createTextNode(written)], href), end: index + written.length } : null;
}

/** Shows text that grows in `parent`, drawing anew only the blocks that have changed. */
export class MarkdownView {
  #shown = [];

  constructor(parent, copy) {
    this.parent = parent;
    this.copy = copy;
  }

  show(text) {
    const blocks = blocksOf(text);
    let same = 0;
    while (same < blocks.length && this.#shown[same] === blocks[same].raw) same++;
    while (this.parent.childNodes.length > same) this.parent.lastChild.remove();
    this.parent.append(...blocks.slice(same).map((block) => nodeOf(block, this.copy)));
    this.#shown = blocks.map((block) => block.raw);
  }
}
