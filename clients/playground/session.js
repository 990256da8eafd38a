// Who is signed in, for this tab. On a developer's machine the identity provider asks for no password.
import { NoAnswerError } from "./client.js"

const KEY = "reelhouse.session"
const EARLY_MS = 60_000

export class Session {
  #authUrl
  #stored

  /** `authUrl` is the identity provider's, as Supabase has it: `https://<project>.supabase.co/auth/v1`. */
  constructor(authUrl) {
    this.#authUrl = authUrl
    this.#stored = JSON.parse(sessionStorage.getItem(KEY) ?? "null")
  }

  get signedIn() {
    return this.#stored !== null
  }

  async signIn(email, plan) {
    const response = await fetch(`${this.#authUrl}/token?grant_type=password`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ email, plan, password: "" }),
    })
    if (!response.ok) throw new NoAnswerError(undefined, response.status)
    const answer = await response.json()
    this.#keep({ email, plan, token: answer.access_token, expiresAt: Date.now() + answer.expires_in * 1000 })
  }

  useToken(token) {
    this.#keep({ token: token.trim(), expiresAt: Infinity })
  }

  /** A token that is good for a while. The client asks before every request. */
  async token() {
    if (Date.now() > (this.#stored.expiresAt ?? Infinity) - EARLY_MS) await this.signIn(this.#stored.email, this.#stored.plan)
    return this.#stored.token
  }

  signOut() {
    sessionStorage.clear()
  }

  #keep(stored) {
    this.#stored = stored
    sessionStorage.setItem(KEY, JSON.stringify(stored))
  }
}
