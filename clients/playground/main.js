// Puts the page together: the session, the client, the store, and one view for each address.
import { ProblemError, Reelhouse } from "./client.js"
import { credits } from "./credits.js"
import { announce, h } from "./dom.js"
import { order } from "./order.js"
import { Session } from "./session.js"
import { Store } from "./store.js"
import { studio } from "./studio.js"
import { sayCredits, sayError } from "./words.js"

const PLANS = ["free", "standard", "pro"]
const view = document.getElementById("view")

/** Each address, and what it shows. The views listen to the store only while they are shown. */
const ROUTES = [
  [/^#\/orders\/([\w-]+)$/, "Order", order],
  [/^#\/credits$/, "Credits", credits],
  [/^/, "Studio", studio],
]

async function start() {
  // Beside the page: where the API is, and who signs users in.
  const { api_url: apiUrl, auth_url: authUrl } = await (await fetch("config.json")).json()
  const baseUrl = new URL(apiUrl, location.href).origin
  const session = new Session(authUrl)
  if (!session.signedIn) return view.replaceChildren(signIn(session))
  const reelhouse = new Reelhouse({ baseUrl, token: () => session.token() })
  const store = new Store(reelhouse)
  showHeader(store, session)
  const loaded = new Promise((resolve) => store.addEventListener("loaded", () => resolve(true), { once: true }))
  const failed = store.run().catch((error) => ended(error, session))
  if (!(await Promise.race([loaded, failed]))) return
  show({ reelhouse, store })
  window.addEventListener("hashchange", () => show({ reelhouse, store }))
  const resumed = await store.resumeOrder().catch((error) => announce(sayError(error)))
  if (resumed) announce("Your order was placed")
}

let leave = new AbortController()

function show(context) {
  leave.abort()
  leave = new AbortController()
  const { signal } = leave
  const listen = (name, handle) => context.store.addEventListener(name, handle, { signal })
  const [pattern, title, draw] = ROUTES.find(([address]) => address.test(location.hash))
  view.replaceChildren(draw({ ...context, listen }, ...location.hash.match(pattern).slice(1)))
  document.title = `${title} · Reelhouse`
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === (location.hash || "#/")) link.setAttribute("aria-current", "page")
    else link.removeAttribute("aria-current")
  }
  window.scrollTo(0, 0)
}

function showHeader(store, session) {
  for (const hidden of document.querySelectorAll("header [hidden]")) hidden.hidden = false
  const balance = document.getElementById("balance")
  const lamp = document.getElementById("lamp")
  store.addEventListener("balance", () => {
    const { available_credits: available, reserved_credits: reserved } = store.balance
    balance.replaceChildren(sayCredits(available), h("span", { class: "aside" }, reserved > 0 ? ` · ${reserved} set aside` : ""))
  })
  store.addEventListener("connection", ({ detail: connected }) => {
    lamp.classList.toggle("on", connected)
    lamp.setAttribute("aria-label", connected ? "Live" : "Connecting")
    lamp.title = lamp.getAttribute("aria-label")
  })
  document.getElementById("sign-out").onclick = () => {
    session.signOut()
    location.reload()
  }
}

/** The stream has ended for good. A token that does not count any more means: sign in again. */
function ended(error, session) {
  if (error instanceof ProblemError && error.problem.status === 401) {
    session.signOut()
    location.reload()
  } else {
    view.replaceChildren(h("p", { class: "empty", role: "alert" }, sayError(error)))
  }
}

function signIn(session) {
  const email = h("input", { id: "email", type: "email", required: true, value: "you@example.test", autocomplete: "username" })
  const plan = h("select", { id: "plan" }, PLANS.map((name) => h("option", {}, name)))
  const token = h("textarea", { id: "token", rows: 3, autocomplete: "off", spellcheck: "false" })
  const complaint = h("p", { class: "complaint", role: "alert" })

  async function submit(event) {
    event.preventDefault()
    try {
      if (token.value.trim()) session.useToken(token.value)
      else await session.signIn(email.value, plan.value)
      await start()
    } catch (error) {
      complaint.textContent = error instanceof TypeError ? "The identity provider does not answer." : sayError(error)
    }
  }

  return h("form", { class: "card sign-in", onsubmit: submit },
    h("h1", {}, "Make a clip"),
    h("p", { class: "hint" }, "On a platform on your machine, any address signs in, and each one is a user of its own. The proposed one is the user of the commands that make up prints."),
    h("div", { class: "field" }, h("label", { for: "email" }, "E-mail"), email),
    h("div", { class: "field" }, h("label", { for: "plan" }, "Plan"), plan),
    h("details", { class: "more" }, h("summary", {}, "Use an access token"),
      h("div", { class: "field" }, h("label", { for: "token" }, "Access token"), token)),
    h("button", { class: "primary", type: "submit" }, "Sign in"), complaint)
}

await start()
