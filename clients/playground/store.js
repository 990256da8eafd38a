// What the page knows, kept current by the event stream. Views listen to "generation", "balance", "payment", "connection".
import { ENDED, NoAnswerError, ProblemError, refused } from "./client.js"
import { interrupted, once } from "./intents.js"

const PAGE = 24
/** Events without a new status after which a generation shows more than before. */
const WORTH_READING = new Set(["credits_captured", "previews_stored"])
const INTENT = "reelhouse.intent"

export class Store extends EventTarget {
  /** By id, in the order in which they were ordered, newest first. */
  generations = new Map()
  /** The newest report about each generation that is being made. */
  progress = new Map()
  models = []
  balance = undefined
  nextCursor = null

  #reelhouse

  constructor(reelhouse) {
    super()
    this.#reelhouse = reelhouse
  }

  /** Follow the events until the page is left. The first one says that the stream stands: then the lists are read. */
  async run() {
    this.models = (await this.#insist(() => this.#reelhouse.listModels())).items
    for await (const event of this.#reelhouse.events()) await this.#take(event)
  }

  async more() {
    const query = { limit: PAGE, ...(this.nextCursor && { cursor: this.nextCursor }) }
    const page = await this.#reelhouse.listGenerations({ query })
    this.nextCursor = page.next_cursor
    page.items.forEach((generation) => this.#keep(generation))
  }

  async generation(id) {
    const generation = await this.#reelhouse.getGeneration({ path: { generation_id: id } })
    this.#keep(generation)
    return generation
  }

  async delete(id) {
    await this.#reelhouse.deleteGeneration({ path: { generation_id: id } })
    this.#forget(id)
  }

  /** Order once. After a reload, or a lost answer, the same key is sent again, and nothing is ordered twice. */
  async order(wish, limit) {
    const generation = await once(INTENT, wish, limit, (body, options) => this.#reelhouse.order(body, options))
    this.#keep(generation)
    return generation
  }

  /** Finish an order whose answer a reload cut off. */
  async resumeOrder() {
    const wish = interrupted(INTENT)
    return wish && this.order(wish)
  }

  async #take({ event, data }) {
    switch (event) {
      case "stream.opened":
        this.#tell("connection", true)
        if (!data.resumed) await this.#insist(() => Promise.all([this.#readBalance(), this.#readNewest()]))
        break
      case "stream.lost":
        this.#tell("connection", false)
        break
      case "generation.updated":
        if (data.name === "deleted") this.#forget(data.generation_id)
        else if (data.status !== undefined || WORTH_READING.has(data.name)) await this.#refresh(data.generation_id)
        break
      case "generation.progress":
        this.progress.set(data.generation_id, { ...this.progress.get(data.generation_id), ...data })
        this.#tell("generation", data.generation_id)
        break
      case "generation.estimated":
        this.#estimate(data)
        break
      case "balance.updated":
        this.balance = { ...this.balance, ...data }
        this.#tell("balance")
        break
      case "payment.updated":
        this.#tell("payment", data)
        break
    }
  }

  /** It may be deleted by now, in this window or another one. */
  async #refresh(id) {
    try {
      await this.#insist(() => this.generation(id))
    } catch (error) {
      if (!refused(error, "generation_deleted")) throw error
      this.#forget(id)
    }
  }

  /** Read until there is an answer; the client waits between its tries. The page shows what it knew last meanwhile. */
  async #insist(read) {
    for (let connected = true; ; connected = false) {
      try {
        const answer = await read()
        if (!connected) this.#tell("connection", true)
        return answer
      } catch (error) {
        if (!mayPass(error)) throw error
        this.#tell("connection", false)
      }
    }
  }

  async #readBalance() {
    this.balance = await this.#reelhouse.getBalance()
    this.#tell("balance")
  }

  async #readNewest() {
    this.nextCursor = null
    await this.more()
    this.#tell("loaded")
  }

  #keep(generation) {
    if (ENDED.has(generation.status)) this.progress.delete(generation.id)
    this.generations.set(generation.id, generation)
    const newestFirst = [...this.generations].sort(([, a], [, b]) =>
      a.requested_at === b.requested_at ? a.variant_number - b.variant_number : a.requested_at < b.requested_at ? 1 : -1)
    this.generations = new Map(newestFirst)
    this.#tell("generation", generation.id)
  }

  /** When it will be ready is news of its own; a generation that is not known here has it in the answer. */
  #estimate({ generation_id: id, ...estimate }) {
    const generation = this.generations.get(id)
    if (!generation || ENDED.has(generation.status)) return
    this.generations.set(id, { ...generation, ...estimate })
    this.#tell("generation", id)
  }

  #forget(id) {
    this.progress.delete(id)
    if (this.generations.delete(id)) this.#tell("loaded")
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }))
  }
}

/** Whether the same question may have an answer later. */
const mayPass = (error) => error instanceof NoAnswerError ||
  (error instanceof ProblemError && (error.problem.retryable || error.problem.status >= 500))
