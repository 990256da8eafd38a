// One order: its file, what it cost, and everything that happened to it, with every credit that moved.
import { ENDED, NoAnswerError } from "./client.js"
import { h } from "./dom.js"
import { growing, player } from "./media.js"
import { draftOrder } from "./studio.js"
import { sayCredits, sayDelta, sayError, sayEvent, sayFailure, sayMilliseconds, sayReason, sayStatus, sayTime, sayUntil } from "./words.js"

export function order({ reelhouse, store, listen }, id) {
  const element = h("article", { class: "order-page" }, h("p", { class: "empty", "aria-busy": "true" }, "Loading …"))
  const screen = h("div", { class: "screen" })
  const facts = h("dl", { class: "facts" })
  const actions = h("div", { class: "actions" })
  const timeline = h("ol", { class: "timeline" })
  const live = growing()
  let drawnStatus

  function draw(generation) {
    if (ENDED.has(generation.status)) {
      if (drawnStatus !== generation.status) screen.replaceChildren(ending(generation))
    } else {
      if (live.element.parentElement !== screen) screen.replaceChildren(live.element)
      live.update(generation, store.progress.get(id))
    }
    drawnStatus = generation.status
    facts.replaceChildren(...factsOf(generation).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))
    actions.replaceChildren(...actionsOf(generation))
  }

  const ending = (generation) => generation.status === "completed"
    ? player(generation, () => store.generation(id))
    : h("p", { class: "empty" }, generation.failure ? sayFailure(generation.failure) : sayStatus(generation.status))

  function actionsOf(generation) {
    const { model_id: modelId, parameters, download, kind } = generation
    const again = h("button", { type: "button", onclick: () => draftOrder(modelId, parameters) }, "Order again")
    if (!ENDED.has(generation.status)) return [action("Cancel", cancel)]
    const remove = action("Delete", discard)
    if (!download) return [again, remove]
    const saved = action("Save", save)
    saved.classList.add("primary")
    return [saved, kind === "image" && action("Make it move", startFrom), again, remove].filter(Boolean)
  }

  /** A button that does this, and says beside it why it could not. */
  function action(name, act) {
    const button = h("button", { type: "button", onclick }, name)
    async function onclick() {
      button.disabled = true
      try {
        await act()
      } catch (error) {
        actions.append(h("p", { class: "complaint", role: "alert" }, sayError(error)))
      } finally {
        button.disabled = false
      }
    }
    return button
  }

  const cancel = () => reelhouse.cancelGeneration({ path: { generation_id: id } })

  /** What it cost stays on the statement. */
  async function discard() {
    if (!confirm("Delete this and its file? This cannot be undone.")) return
    await store.delete(id)
    location.hash = "#/"
  }

  /** The links of a page that has been open for ten minutes work no more: these are fresh. */
  const freshLinks = async () => (await store.generation(id)).download

  async function save() {
    location.assign((await freshLinks()).save_url)
  }

  /** A picture becomes the first frame of a clip: it is uploaded like any other. */
  async function startFrom() {
    const model = store.models.find((one) => one.kind === "video" && "image" in one.parameters_schema.properties)
    const { url, content_type: contentType } = await freshLinks()
    const answer = await fetch(url).catch((error) => { throw new NoAnswerError(error) })
    if (!answer.ok) throw new NoAnswerError(undefined, answer.status)
    draftOrder(model.id, { image: await reelhouse.upload(await answer.blob(), { contentType }) })
  }

  async function drawTimeline(generation) {
    const path = { generation_id: id }
    const [{ items }, postings] = await Promise.all([
      reelhouse.getGenerationTimeline({ path }), postingsOf(reelhouse, generation),
    ])
    const entries = [
      ...items.map((entry) => ({ at: entry.at, row: step(entry, items[0].at) })),
      ...postings.map((line) => ({ at: line.occurred_at, row: posting(line) })),
    ].sort((a, b) => Date.parse(a.at) - Date.parse(b.at))
    timeline.replaceChildren(...entries.map(({ row }) => row))
  }

  async function refresh() {
    const generation = store.generations.get(id) ?? await store.generation(id)
    draw(generation)
    await drawTimeline(generation)
  }

  listen("generation", ({ detail }) => {
    const generation = store.generations.get(id)
    if (detail !== id || !generation) return
    const changed = generation.status !== drawnStatus || generation.captured_credits !== null
    draw(generation)
    if (changed) void drawTimeline(generation)
  })
  listen("balance", () => store.generations.has(id) && void drawTimeline(store.generations.get(id)))

  refresh().then(() => element.replaceChildren(
    h("a", { class: "back", href: "#/" }, "← Studio"),
    h("div", { class: "split" },
      h("div", {}, screen, actions),
      h("div", { class: "card" }, h("h1", {}, store.generations.get(id).parameters.prompt ?? "An order"), facts)),
    h("section", { class: "card" }, h("h2", {}, "What happened, and every credit that moved"), timeline),
  )).catch((error) => element.replaceChildren(h("p", { class: "empty", role: "alert" }, sayError(error))))
  return element
}

function factsOf(generation) {
  const { parameters, download } = generation
  const { captured_credits: captured, late, status } = generation
  const charged = captured !== null ? sayCredits(captured)
    : late ? "nothing: it was late" : ENDED.has(status) && status !== "completed" ? "nothing" : "nothing yet"
  const { queue_position: position, estimated_completion_at: ready, estimated_completion_p90_at: latest } = generation
  return [
    ["Status", sayStatus(generation.status)],
    ...(position ? [["In the queue", `number ${position}`]] : []),
    ...(ready ? [["Ready", `in ${sayUntil(ready)}, and nine times of ten within ${sayUntil(latest)}`]] : []),
    ["Model", generation.model_id],
    ["Ordered", sayTime(generation.requested_at)],
    ["Price", sayCredits(generation.price_credits)],
    ["Charged", charged],
    ...(generation.count === 1 ? [] : [
      ["Variants", variantsOf(generation)],
      ["Whole order", `${sayCredits(generation.total_captured_credits)} charged of ${generation.total_price_credits}`],
    ]),
    ...(download ? [
      ["File", `${download.width_pixels} × ${download.height_pixels}, ${(download.size_bytes / 1e6).toFixed(2)} MB`],
      ["SHA-256", h("code", { title: download.sha256 }, `${download.sha256.slice(0, 16)}…`)],
    ] : []),
    ...Object.entries(parameters).filter(([name]) => !["prompt", "negative_prompt", "image", "clip"].includes(name))
      .map(([name, value]) => [name.replaceAll("_", " "), String(value)]),
    ["Id", h("code", {}, generation.id)],
  ]
}

/** A link to each output of the order. */
const variantsOf = ({ id, variants }) => h("span", { class: "variants" }, variants.map((one) => {
  const label = `${one.variant_number}: ${one.deleted ? "deleted" : sayStatus(one.status)}`
  return one.id === id || one.deleted ? h("span", {}, label) : h("a", { href: `#/orders/${one.id}` }, label)
}))

/** The statement lines of one order. The statement is newest first, so it is read until it is older than the order. */
async function postingsOf(reelhouse, generation) {
  const lines = []
  for await (const line of reelhouse.statement({ limit: 100 })) {
    if (Date.parse(line.occurred_at) < Date.parse(generation.requested_at) - 60_000) break
    if (line.generation_id === generation.id) lines.push(line)
  }
  return lines.reverse()
}

function step(entry, beganAt) {
  const code = entry.detail.code ? ` (${entry.detail.code})` : ""
  return h("li", {},
    h("time", { datetime: entry.at }, `+${sayMilliseconds(Date.parse(entry.at) - Date.parse(beganAt))}`),
    h("span", {}, sayEvent(entry.name) + code),
    h("span", { class: "since" }, entry.since_previous_ms === null ? "" : `after ${sayMilliseconds(entry.since_previous_ms)}`))
}

function posting(line) {
  const moved = [
    ["available", line.available_delta_credits], ["reserved", line.reserved_delta_credits],
    ["owed", line.receivable_delta_credits],
  ].filter(([, delta]) => delta !== 0)
  return h("li", { class: "posting" },
    h("time", { datetime: line.occurred_at }, `#${line.line_number}`),
    h("span", {}, sayReason(line.reason)),
    h("span", { class: "moved" }, moved.map(([account, delta]) =>
      h("span", { class: delta < 0 ? "minus" : "plus" }, `${sayDelta(delta)} ${account}`))))
}
