// The first page: order on the left, watch on the right, everything that was made below.
import { ENDED, refused } from "./client.js"
import { announce, debounced, h } from "./dom.js"
import { modelForm } from "./form.js"
import { growing, movesWhenChosen, player, thumbnail } from "./media.js"
import { sayCredits, sayError, sayFailure, sayStatus } from "./words.js"

const DRAFT = "reelhouse.draft"
const QUOTE_AFTER_MS = 200

export function studio({ reelhouse, store, listen }) {
  const watch = stage(store)
  const list = gallery(store, watch)
  const element = h("div", { class: "studio" }, composer(reelhouse, store, watch), watch.element, list.element)
  listen("generation", ({ detail: id }) => {
    watch.update(id)
    list.update(id)
  })
  listen("loaded", () => {
    list.reload()
    watch.begin()
  })
  list.reload()
  watch.begin()
  return element
}

// Ordering

/** Model, settings, price, order. What is entered outlives a reload. */
function composer(reelhouse, store, watch) {
  const draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "{}")
  const select = h("select", { id: "model" }, store.models.map((model) => h("option", { value: model.id }, model.title)))
  const about = h("p", { class: "hint" })
  const fields = h("div")
  const count = h("input", { id: "count", type: "number", inputmode: "numeric", min: 1, required: true, value: draft.count || 1 })
  const howMany = h("div", { class: "how-many" }, h("label", { for: "count" }, "How many"), count)
  const price = h("span", { class: "price", "aria-live": "polite" })
  const button = h("button", { class: "primary", type: "submit" }, "Order")
  const complaint = h("p", { class: "complaint", role: "alert" })
  let form
  let quoted

  select.value = draft.model_id ?? store.models.find((model) => model.kind === "video" && !needsUpload(model))?.id
  if (!select.value) select.selectedIndex = 0

  /** What is in the form. Several outputs of one order differ in their seeds. */
  const wanted = () => ({ model_id: select.value, parameters: form.values(), count: Number(count.value) })

  const quote = debounced(async () => {
    try {
      quoted = await reelhouse.createQuote({ body: wanted() })
      price.textContent = sayCredits(quoted.total_price_credits)
      const each = quoted.lines.map((line) => `${line.label}: ${line.credits}`).join(", ")
      price.title = quoted.count === 1 ? each : `${quoted.count} times ${quoted.price_credits}: ${each}`
    } catch (error) {
      quoted = undefined
      price.textContent = ""
      if (refused(error, "invalid_parameters")) form.complain(error.problem.errors)
      else complaint.textContent = sayError(error)
    }
  }, QUOTE_AFTER_MS)

  function changed() {
    complaint.textContent = ""
    sessionStorage.setItem(DRAFT, JSON.stringify(wanted()))
    if (count.reportValidity()) quote()
  }

  function showModel(parameters) {
    const model = store.models.find(({ id }) => id === select.value)
    about.textContent = model.description
    count.max = model.max_count
    count.value = Math.min(count.value, model.max_count)
    howMany.hidden = model.max_count === 1
    form = modelForm(model.parameters_schema, parameters, {
      upload: (file) => reelhouse.upload(file), onchange: changed,
    })
    fields.replaceChildren(form.element)
    changed()
  }

  async function order(event) {
    event.preventDefault()
    if (!form.complete() || !count.reportValidity()) return
    button.disabled = true
    complaint.textContent = ""
    try {
      // What the user saw is what they pay: a price that has risen since is refused.
      const limit = quoted && { max_price_credits: quoted.total_price_credits }
      watch.show(await store.order(wanted(), limit))
      announce("Ordered")
    } catch (error) {
      complaint.textContent = sayError(error)
      if (refused(error, "insufficient_credits")) complaint.append(" ", h("a", { href: "#/credits" }, "Buy credits"))
      if (refused(error, "invalid_parameters")) form.complain(error.problem.errors)
      quote()
    } finally {
      button.disabled = false
    }
  }

  select.addEventListener("change", () => showModel(form.values()))
  count.addEventListener("input", changed)
  showModel(draft.parameters ?? {})
  return h("form", { class: "card composer", onsubmit: order, novalidate: true, "aria-label": "Order" },
    h("div", { class: "field" }, h("label", { for: "model" }, "Model"), select, about),
    fields, howMany, h("div", { class: "order" }, button, price), complaint)
}

const needsUpload = (model) =>
  (model.parameters_schema.required ?? []).some((name) => model.parameters_schema.properties[name].format === "upload-id")

/** Open the studio with these settings filled in. */
export function draftOrder(modelId, parameters) {
  sessionStorage.setItem(DRAFT, JSON.stringify({ model_id: modelId, parameters }))
  location.hash = "#/"
}

// Watching

/** One generation, large: what is under way, or the newest. */
function stage(store) {
  const screen = h("div", { class: "screen" })
  const caption = h("div", { class: "caption" })
  const element = h("section", { class: "stage", "aria-label": "Stage" }, screen, caption)
  let shown
  let live

  function empty() {
    shown = live = undefined
    screen.replaceChildren(h("p", { class: "empty" }, "What you order appears here."))
    caption.replaceChildren()
  }

  function show(generation) {
    const changedStatus = shown?.id !== generation.id || shown.status !== generation.status
    if (shown && changedStatus && shown.id === generation.id) announce(sayStatus(generation.status))
    if (shown?.id !== generation.id) live = undefined
    shown = generation
    if (generation.status === "completed") {
      if (changedStatus) screen.replaceChildren(player(generation, () => store.generation(generation.id)))
    } else if (ENDED.has(generation.status)) {
      const why = generation.failure ? sayFailure(generation.failure) : `${sayStatus(generation.status)}.`
      screen.replaceChildren(h("p", { class: "empty" }, `${why} The credits come back.`))
    } else {
      live ??= growing()
      if (live.element.parentElement !== screen) screen.replaceChildren(live.element)
      live.update(generation, store.progress.get(generation.id))
    }
    caption.replaceChildren(
      h("p", { class: "prompt" }, generation.parameters.prompt ?? generation.model_id),
      h("a", { href: `#/orders/${generation.id}` }, "Details"))
  }

  empty()
  return {
    element,
    show,
    begin() {
      if (shown && !store.generations.has(shown.id)) empty()
      const all = [...store.generations.values()].filter(({ status }) => status !== "refused")
      const generation = all.find(({ status }) => !ENDED.has(status)) ?? all[0]
      if (generation && !shown) show(generation)
    },
    update(id) {
      const generation = store.generations.get(id)
      if (generation && shown?.id === id) show(generation)
    },
  }
}

// Looking back

function gallery(store, watch) {
  const list = h("ul", { class: "gallery" })
  const more = h("button", { type: "button", hidden: true, onclick: loadMore }, "Show more")
  const cards = new Map()

  async function loadMore() {
    await store.more()
    reload()
  }

  function card(generation) {
    const picture = h("span", { class: "thumbnail" })
    const label = h("span", { class: "label" })
    const button = h("button", { type: "button", onclick: show }, picture, label)
    function show() {
      watch.show(store.generations.get(generation.id))
      watch.element.scrollIntoView({ block: "nearest" })
    }
    movesWhenChosen(button, picture, () => store.generations.get(generation.id))
    return { element: h("li", {}, button), picture, label, drawn: "" }
  }

  function update(id) {
    const generation = store.generations.get(id)
    if (!generation || generation.status === "refused") return
    if (!cards.has(id)) return reload()
    const one = cards.get(id)
    const progress = store.progress.get(id)
    const drawn = `${generation.status} ${progress?.preview?.length ?? 0} ${generation.download?.expires_at}`
    if (one.drawn === drawn) return
    one.drawn = drawn
    one.picture.replaceChildren(thumbnail(generation, progress, () => store.generation(id)))
    const place = generation.count === 1 ? "" : ` (${generation.variant_number} of ${generation.count})`
    one.label.textContent = (generation.parameters.prompt ?? generation.model_id) + place
    one.element.firstChild.setAttribute("aria-label", `${one.label.textContent}: ${sayStatus(generation.status)}`)
  }

  /** What was refused was never made: the composer has said why. */
  function reload() {
    const shown = [...store.generations.values()].filter(({ status }) => status !== "refused")
    for (const generation of shown) {
      if (!cards.has(generation.id)) cards.set(generation.id, card(generation))
      update(generation.id)
    }
    list.replaceChildren(...shown.map(({ id }) => cards.get(id).element))
    more.hidden = store.nextCursor === null
  }

  return {
    element: h("section", { class: "made", "aria-label": "Gallery" }, h("h2", {}, "Gallery"), list, more),
    update,
    reload,
  }
}
