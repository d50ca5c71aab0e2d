// The lowest contrast of any text with its background, computed as in WCAG 2.
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const channels = (color) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = ([r, g, b, a], below) => [r, g, b].map((channel, i) => a * channel + (1 - a) * below[i]);
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((channel) => channel / 255)
    .map((channel) => (channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
// Backgrounds from the element up to the first opaque one, or else to the browser's own.
const behind = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    const layer = channels(getComputedStyle(at).backgroundColor);
    layers.push(layer);
    if (layer[3] === 1) break;
  }
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const contrast = (color, ground) => {
  const [light, dark] = [luminance(over(channels(color), ground)), luminance(ground)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
};
let least = { contrast: 21, text: "" };
const consider = (element, color, ground, text) => {
  const found = contrast(color, ground);
  if (found < least.contrast) least = { contrast: found, text: `${element.id || element.className}: ${text}` };
};
for (const element of document.querySelectorAll("body *")) {
  if (!element.checkVisibility() || element.disabled || element.closest("svg")) continue;
  const color = getComputedStyle(element).color;
  const text = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE)
    .map((node) => node.data.trim()).join("");
  if (text) consider(element, color, behind(element), text);
  const inside = getComputedStyle(element, "::placeholder").color;
  if (element.placeholder) consider(element, inside, behind(element), element.placeholder);
  // A bar lies behind the texts beside it.
  const bar = text && element.parentElement.querySelector(":scope > .bar");
  if (bar) consider(element, color, behind(bar), text);
}
return least;
