// What is wrong with a page as it is shown: a list of sentences. Called in the page by tests/test_site.py.
() => {
  const faults = [];
  const name = (element) => {
    const words = element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${element.tagName.toLowerCase()} class="${element.getAttribute("class") || ""}"> "${words}"`;
  };
  const shown = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });

  // the page itself does not scroll sideways
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth)
    faults.push(`the page is ${page.scrollWidth} px wide in a window of ${page.clientWidth}`);

  // what is wider than its box scrolls, and a shadow or a bar says so
  for (const element of document.body.querySelectorAll("*")) {
    const style = getComputedStyle(element);
    const hidden = element.scrollWidth - element.clientWidth;
    if (hidden < 2 || element.clientWidth < 20 || !shown(element) || style.overflowX === "visible") continue;
    if (element.closest("mjx-assistive-mml")) continue; // it is read aloud, not shown
    if (!element.textContent.trim() && !element.querySelector("img, svg")) continue;
    const bar = element.offsetHeight - element.clientHeight > 8;
    const scrolls = ["auto", "scroll"].includes(style.overflowX);
    if (!scrolls && style.textOverflow !== "ellipsis") faults.push(`${hidden} px are cut off: ${name(element)}`);
    if (scrolls && !bar && !style.backgroundImage.includes("gradient"))
      faults.push(`nothing says that ${hidden} px more can be scrolled to: ${name(element)}`);
  }

  // pictures are there and say what is seen
  for (const image of document.images) {
    if (!image.complete || !image.naturalWidth) faults.push(`no picture at ${image.src}`);
    const drawn = image.closest(".cell_output"); // by a cell: it says from where to where, in numbers
    const empty = /\.(png|svg)$|^Figure\(|<Figure|^A picture\.$|is not described/.test(image.alt);
    if (empty || image.alt.length < (drawn ? 40 : 20) || (drawn && !/\d/.test(image.alt)))
      faults.push(`the picture ${image.src} is not described: "${image.alt}"`);
  }

  // formulas are formulas
  for (const formula of document.querySelectorAll(".math"))
    if (!formula.querySelector("mjx-container")) faults.push(`not rendered: ${name(formula)}`);
  for (const formula of document.querySelectorAll("mjx-merror, [data-mjx-error]"))
    faults.push(`a wrong formula: ${name(formula)}`);

  // contrast by WCAG 2, level AA: 4.5 for text, 3 for large text
  const parse = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return { rgb: colour.startsWith("color(") ? [255 * r, 255 * g, 255 * b] : [r, g, b], a };
  };
  const over = (top, below, a) => top.map((value, i) => a * value + (1 - a) * below[i]);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const { rgb, a } = parse(getComputedStyle(element).backgroundColor);
    return a === 1 ? rgb : over(rgb, behind(element.parentElement), a);
  };
  const opacity = (element) => (element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1);
  const pale = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !shown(element) || element.closest("svg, script, style, .visually-hidden")) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const { rgb, a } = parse(style.color);
    const seen = over(rgb, ground, a * opacity(element));
    const light = [luminance(seen), luminance(ground)].sort((x, y) => y - x);
    const ratio = (light[0] + 0.05) / (light[1] + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) pale.add(`contrast ${ratio.toFixed(2)}: ${name(element)} ${style.color} on ${ground}`);
  }
  return [...faults, ...pale];
}
