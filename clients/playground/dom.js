// Elements without a framework: h("button", { class: "primary", onclick: order }, "Order").

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue
    // Properties, so that handlers stay functions and nothing is inline: the page's policy forbids inline code.
    if (name.startsWith("on") || name === "value" || name === "muted") element[name] = value
    else element.setAttribute(name, value === true ? "" : value)
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false))
  return element
}

/** Say something to those who do not see the page change. */
export function announce(text) {
  document.getElementById("announcement").textContent = text
}

/** Call `run` once nothing has been asked for `milliseconds`. */
export function debounced(run, milliseconds) {
  let timer
  return () => {
    clearTimeout(timer)
    timer = setTimeout(run, milliseconds)
  }
}

/** Have the browser save `blob` as `name`. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob)
  h("a", { href: url, download: name }).click()
  URL.revokeObjectURL(url)
}
