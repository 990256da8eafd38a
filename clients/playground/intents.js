// Doing a thing once, whatever is lost or reloaded in between.
import { decided, newKey } from "./client.js"

/**
 * Write the wish down with a key, then send it; forget it once it is decided. Until then the same wish is the same
 * intent: it is sent again with its key, just as it was. `terms` are sent along, and may be others the next time.
 */
export async function once(place, wish, terms, send) {
  const before = read(place)
  const same = before !== null && JSON.stringify(before.wish) === JSON.stringify(wish)
  const intent = same ? before : { wish, body: { ...wish, ...terms }, key: newKey() }
  write(place, { ...intent, told: false })
  try {
    const answer = await send(intent.body, { key: intent.key })
    sessionStorage.removeItem(place)
    return answer
  } catch (error) {
    if (decided(error)) sessionStorage.removeItem(place)
    else write(place, { ...intent, told: true })
    throw error
  }
}

/** The wish whose answer a reload cut off. One that failed was told to the user, who may try again. */
export function interrupted(place) {
  const intent = read(place)
  return intent === null || intent.told ? undefined : intent.wish
}

const read = (place) => JSON.parse(sessionStorage.getItem(place) ?? "null")
const write = (place, intent) => sessionStorage.setItem(place, JSON.stringify(intent))
