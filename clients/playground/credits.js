// The balance, buying, and the statement.
import { refused } from "./client.js"
import { h, save } from "./dom.js"
import { once } from "./intents.js"
import { sayCredits, sayDelta, sayError, sayNumber, sayPrice, sayProvider, sayReason, sayTime } from "./words.js"

const LINES = 20
const PURCHASE = "reelhouse.purchase"
const PROVIDERS = ["stripe", "btcpay", "nowpayments"]

export function credits({ reelhouse, listen }) {
  const balance = h("dl", { class: "balances" })
  const news = h("p", { class: "news", role: "status" })
  const payments = h("ul", { class: "payments" })
  const offers = shop(reelhouse)
  const statement = statementOf(reelhouse)

  async function drawBalance() {
    const { available_credits, reserved_credits, settled_credits, receivable_credits } = await reelhouse.getBalance()
    const shown = [["Available", available_credits], ["Set aside", reserved_credits], ["Spent", settled_credits]]
    if (receivable_credits > 0) shown.push(["Owed", receivable_credits])
    balance.replaceChildren(...shown.map(([name, count]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, sayNumber(count)))))
  }

  async function drawPayments() {
    const { items } = await reelhouse.listPayments({ query: { limit: 5 } })
    payments.replaceChildren(...items.map(payment))
    // Coming back from the checkout proves nothing: what the API says about the payment does.
    const paymentId = new URLSearchParams(location.search).get("payment_id")
    const returned = items.find(({ id }) => id === paymentId)
    if (!returned) return
    const { items: history } = await reelhouse.getPaymentTimeline({ path: { payment_id: returned.id } })
    const granted = history.some(({ name }) => name === "credits_granted")
    news.textContent = sayPayment(returned, granted)
    if (granted) window.history.replaceState(null, "", location.pathname + location.hash)
  }

  const draw = () => Promise.all([drawBalance(), statement.draw()])
  listen("balance", draw)
  listen("payment", drawPayments)
  void draw()
  void drawPayments()
  return h("div", { class: "credits" },
    h("h1", {}, "Credits"), news, balance, offers,
    h("section", { class: "card" }, h("h2", {}, "Payments"), payments),
    statement.element)
}

function sayPayment({ status, credits, bonus_credits: bonus }, granted) {
  if (granted) return `${sayCredits(credits + bonus)} have arrived. Thank you.`
  if (status === "settled") return "Paid. The credits are on their way …"
  if (status === "pending") return "Waiting for the provider to confirm your payment …"
  return `The payment is ${status.replaceAll("_", " ")}.`
}

function payment(one) {
  return h("li", {},
    h("span", {}, `${sayPrice(one.price_cents, one.currency)} · ${sayProvider(one.provider)}`),
    h("span", { class: `tag ${one.status}` }, one.status.replaceAll("_", " ")),
    h("time", { datetime: one.created_at }, sayTime(one.created_at)),
    one.checkout_url && h("a", { href: one.checkout_url }, "Pay"),
    one.receipt_url && h("a", { href: one.receipt_url, target: "_blank", rel: "noreferrer" }, "Receipt"))
}

/** The packs, and how to pay. */
function shop(reelhouse) {
  const complaint = h("p", { class: "complaint", role: "alert" })
  const packs = h("ul", { class: "packs" })
  const providers = PROVIDERS.map((provider, index) => h("label", { class: "choice" },
    h("input", { type: "radio", name: "provider", value: provider, checked: index === 0 }), h("span", {}, sayProvider(provider))))
  const element = h("section", { class: "card" }, h("h2", {}, "Buy credits"),
    h("fieldset", { class: "field" }, h("legend", {}, "Pay with"), h("div", { class: "choices" }, providers)), packs, complaint)

  async function buy(button, pack) {
    const provider = element.querySelector("input[name=provider]:checked").value
    button.disabled = true
    complaint.textContent = ""
    try {
      // The checkout comes back here, with the payment's id in the query.
      const here = `${location.origin}${location.pathname}#/credits`
      // The key is kept until there is a checkout, so that a reload does not begin a second purchase.
      const begun = await once(PURCHASE, { pack_id: pack.id, provider }, { return_url: here }, (body, options) =>
        reelhouse.buy(body, options))
      if (begun.checkout_url) return location.assign(begun.checkout_url)
      complaint.textContent = begun.detail ?? sayPayment(begun)
      button.disabled = false
    } catch (error) {
      complaint.textContent = sayError(error)
      button.disabled = false
    }
  }

  reelhouse.listCreditPacks().then(({ items }) => packs.replaceChildren(...items.map((pack) => {
    const button = h("button", { type: "button", class: "primary" }, `Buy for ${sayPrice(pack.price_cents, pack.currency)}`)
    button.onclick = () => buy(button, pack)
    return h("li", {}, h("h3", {}, pack.title), h("p", { class: "count" }, sayNumber(pack.credits), h("small", {}, " credits")),
      h("p", { class: "hint" }, pack.bonus_credits > 0 ? `and ${sayNumber(pack.bonus_credits)} on top` : "\u00a0"), button)
  })), (error) => { complaint.textContent = sayError(error) })
  return element
}

function statementOf(reelhouse) {
  const body = h("tbody")
  const said = h("p", { class: "news", role: "status" })
  const more = h("button", { type: "button", hidden: true }, "Show more")
  let before
  async function page() {
    const query = { limit: LINES, ...(before && { before }) }
    const { items, next_before: next } = await reelhouse.getLedger({ query })
    before = next
    more.hidden = next === null
    return items.map((one) => line(one, () => saveReceipt(one.line_number)))
  }
  /** The proof that the line is in the sealed ledger: docs/check_receipt.py checks the file. */
  const saveReceipt = (number) => saveFile(`receipt-${number}.json`, "application/json", async () =>
    JSON.stringify(await reelhouse.getLedgerReceipt({ path: { line_number: number } }), null, 1))
  const saveStatement = () => saveFile("statement.csv", "text/csv", () => reelhouse.statementCsv())
  async function saveFile(name, type, read) {
    said.textContent = ""
    try {
      save(new Blob([await read()], { type }), name)
    } catch (error) {
      said.textContent = refused(error, "line_not_sealed") ? "Its receipt is ready in a minute or two." : sayError(error)
    }
  }
  more.onclick = async () => body.append(...await page())
  const element = h("section", { class: "card" },
    h("div", { class: "heading" }, h("h2", {}, "Statement"), h("button", { type: "button", class: "quiet", onclick: saveStatement }, "Save as CSV")), said,
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Statement" }, h("table", {},
      h("thead", {}, h("tr", {}, ["#", "When", "What", "Available", "Reserved", "Balance"].map((name, index) =>
        h("th", { scope: "col", class: index > 2 || index === 0 ? "number" : null }, name)))), body)), more)
  return {
    element,
    async draw() {
      before = undefined
      body.replaceChildren(...await page())
    },
  }
}

function line(one, onreceipt) {
  const delta = (count) => h("td", { class: `number ${count < 0 ? "minus" : count > 0 ? "plus" : "none"}` }, count === 0 ? "–" : sayDelta(count))
  const about = one.generation_id
    ? h("a", { href: `#/orders/${one.generation_id}` }, sayReason(one.reason)) : sayReason(one.reason)
  return h("tr", {},
    h("td", { class: "number" }, h("button", {
      type: "button", class: "quiet", title: "Save the receipt", "aria-label": `Receipt of line ${one.line_number}`, onclick: onreceipt,
    }, one.line_number)), h("td", {}, h("time", { datetime: one.occurred_at }, sayTime(one.occurred_at))),
    h("td", {}, about, one.note && h("small", {}, ` ${one.note}`)),
    delta(one.available_delta_credits), delta(one.reserved_delta_credits),
    h("td", { class: "number" }, sayNumber(one.available_after_credits)))
}
