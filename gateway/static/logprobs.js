// The tokens of an answer, shaded by how sure the model was of each, with what else it might have written.

import { byId, element } from "./elements.js";

const MOST = 8000; // tokens that are drawn: each is an element of its own

/** What is kept of the server's entries: `[token, logprob, [[token, logprob], …]]`. */
export function compact(entries) {
  return entries.map(({ token, logprob, top_logprobs: top }) => [token, logprob, (top ?? []).map((each) => [each.token, each.logprob])]);
}

/** A node with every token. */
export function tokensNode(tokens) {
  const node = element("div", "tokens");
  const card = element("div", "alternatives");
  card.hidden = true;
  card.role = "status";
  const spans = tokens.slice(0, MOST).map(([text, logprob, top]) => {
    const span = element("span", "token", text);
    span.tabIndex = 0;
    span.style.setProperty("--doubt", `${Math.round((1 - Math.exp(logprob)) * 100)}%`);
    const show = () => showCard(card, node, span, [text, logprob], top);
    span.addEventListener("pointerenter", show);
    span.addEventListener("focus", show);
    return span;
  });
  node.append(...spans, card);
  if (tokens.length > MOST) node.append(element("p", "fine", `The first ${MOST} of ${tokens.length} tokens.`));
  const hide = () => (card.hidden = true);
  node.addEventListener("pointerleave", hide);
  node.addEventListener("focusout", hide);
  node.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  return node;
}

function showCard(card, node, span, chosen, top) {
  const rows = top.some(([text]) => text === chosen[0]) ? top : [chosen, ...top];
  card.replaceChildren(
    ...rows.map(([text, logprob]) => {
      const share = Math.exp(logprob);
      const row = element("div", text === chosen[0] ? "chosen" : "");
      const bar = element("span", "share");
      bar.style.setProperty("--share", `${(share * 100).toFixed(1)}%`);
      row.append(element("code", "", visible(text)), bar, element("span", "percent", `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`));
      return row;
    }),
  );
  card.hidden = false;
  const [box, place] = [node.getBoundingClientRect(), span.getClientRects()[0]];
  const isLow = place.bottom + card.offsetHeight + 8 > byId("scroller").getBoundingClientRect().bottom;
  card.style.top = `${isLow ? place.top - box.top - card.offsetHeight - 4 : place.bottom - box.top + 4}px`;
  card.style.left = `${Math.max(0, Math.min(place.left - box.left, box.width - card.offsetWidth))}px`;
}

/** White space that can be seen. */
function visible(text) {
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "(nothing)";
}
