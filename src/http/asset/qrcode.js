// Draws a QR code. The gateway has worked out the modules; here they become one path of an SVG.
"use strict";

const QUIET = 4; // modules of white around the code, as the standard asks

/** Puts the code into `element`: `side` modules a row, eight to a byte of `modules` (base64), dark is 1. */
function drawQr(element, side, modules, label) {
  const bytes = Uint8Array.from(atob(modules), (c) => c.charCodeAt(0));
  const isDark = (at) => (bytes[at >> 3] >> (7 - (at & 7))) & 1;
  let path = "";
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      if (!isDark(y * side + x)) continue;
      const start = x;
      while (x + 1 < side && isDark(y * side + x + 1)) x++;
      path += `M${start + QUIET} ${y + QUIET}h${x - start + 1}v1H${start + QUIET}z`;
    }
  }
  const whole = side + 2 * QUIET;
  const make = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const svg = make("svg", { viewBox: `0 0 ${whole} ${whole}`, role: "img", "aria-label": label, "shape-rendering": "crispEdges" });
  svg.append(make("rect", { width: whole, height: whole, fill: "#fff" }), make("path", { d: path, fill: "#000" }));
  element.replaceChildren(svg);
}
