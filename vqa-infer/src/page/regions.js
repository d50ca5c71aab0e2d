"use strict";

/**
 * Draws the regions of a picture as an overlay. Each is a rectangle whose opacity is its attention relative to the most
 * attended region, and whose title gives its share of the attention. Small regions lie above large ones, so that the
 * pointer reaches the smallest of the regions below it.
 *
 * @param {number[][]} boxes x1 y1 x2 y2 of each region, in pixels of the picture
 * @param {number[]} weights share of the attention of each region, 0 to 1
 * @param {number} width of the picture, in pixels
 * @param {number} height of the picture, in pixels
 * @returns {SVGSVGElement} rectangles of class "region", the most attended one of class "region top", `data-region` the
 *     index of its box. Colours come from the page: the fill is the drawing's `color`.
 */
function regionOverlay(boxes, weights, width, height) {
  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const within = (corner, length) => Math.min(Math.max(corner || 0, 0), length);
  const regions = boxes.map(([x1, y1, x2, y2], i) => {
    const [left, right] = [within(x1, width), within(x2, width)];
    const [top, bottom] = [within(y1, height), within(y2, height)];
    const size = { width: Math.max(right - left, 0), height: Math.max(bottom - top, 0) };
    return { i, weight: weights[i] || 0, left, top, ...size };
  });
  const highest = regions.reduce((most, { weight }) => Math.max(most, weight), 0);
  const top = regions.findIndex(({ weight }) => weight === highest);

  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: "regions" });
  // Later elements lie above earlier ones.
  regions.sort((a, b) => b.width * b.height - a.width * a.height || a.i - b.i);
  for (const region of regions) {
    const rect = svg("rect", {
      class: region.i === top ? "region top" : "region",
      "data-region": region.i,
      x: region.left,
      y: region.top,
      width: region.width,
      height: region.height,
      fill: "currentColor",
      "fill-opacity": highest > 0 ? (0.6 * region.weight / highest).toFixed(3) : 0,
      "vector-effect": "non-scaling-stroke",
    });
    const percent = 100 * region.weight;
    const title = svg("title", {});
    title.textContent = `${percent < 1 && percent > 0 ? "less than 1" : Math.round(percent)} % of the attention`;
    rect.append(title);
    drawing.append(rect);
  }
  return drawing;
}
