// What a generation looks like: its file, what the worker has so far, or nothing yet.
import { ENDED } from "./client.js"
import { h } from "./dom.js"
import { sayFailure, sayStatus, sayUntil } from "./words.js"

/** The file itself. Its links work for ten minutes: after that, `refresh` gives a generation with fresh ones. */
export function player(generation, refresh) {
  const { download, kind, parameters } = generation
  const alt = parameters.prompt ?? "The result"
  const element = kind === "video"
    ? h("video", { src: download.url, poster: download.poster_url, controls: true, autoplay: true, loop: true, muted: true,
      playsinline: true, "aria-label": alt })
    : h("img", { src: download.url, alt })
  whenExpired(element, download, async () => element.replaceWith(player(await refresh(), refresh)))
  return element
}

/** Call `renew` if the file cannot be read because its link has run out. */
function whenExpired(element, download, renew) {
  element.addEventListener("error", () => Date.now() > Date.parse(download.expires_at) && renew(), { once: true })
}

/** A picture that grows while the worker renders, with how far it is. */
export function growing() {
  const picture = h("img", { class: "preview", alt: "What the worker has so far", hidden: true })
  const status = h("strong")
  const detail = h("span")
  const bar = h("progress", { max: 100, "aria-label": "Progress" })
  return {
    element: h("div", { class: "growing" }, picture, h("div", { class: "state" }, h("div", {}, status, detail), bar)),
    update(generation, progress) {
      status.textContent = sayStatus(generation.status)
      if (progress?.preview && picture.dataset.shown !== progress.preview) {
        picture.dataset.shown = progress.preview
        picture.src = `data:image/jpeg;base64,${progress.preview}`
        picture.hidden = false
      }
      const known = generation.status === "running" && progress !== undefined
      if (known) bar.value = progress.percent
      else bar.removeAttribute("value")
      const step = progress?.steps ? `step ${progress.step ?? 0} of ${progress.steps}` : progress?.stage
      const said = known ? [`${progress.percent} %`, step && (progress.node ?? step)] : []
      detail.textContent = [...said, ...expected(generation)].filter(Boolean).join(" · ")
    },
  }
}

/** Its place in the queue, and when it will probably be ready. */
function expected({ queue_position: position, estimated_completion_at: ready }) {
  return [position && `number ${position} in the queue`, ready && `ready in ${sayUntil(ready)}`].filter(Boolean)
}

/** The picture of a generation in a list. */
export function thumbnail(generation, progress, refresh) {
  if (generation.status === "completed" && generation.download) {
    const still = h("img", { ...sources(generation.download), alt: "", loading: "lazy" })
    whenExpired(still, generation.download, refresh)
    return still
  }
  if (progress?.preview) return h("img", { src: `data:image/jpeg;base64,${progress.preview}`, alt: "" })
  return h("span", { class: ENDED.has(generation.status) ? "blank ended" : "blank" },
    generation.failure ? sayFailure(generation.failure) : sayStatus(generation.status))
}

/** The browser takes the thumbnail that is just large enough. They come a moment after the file: until then the poster. */
function sources({ thumbnails, poster_url: poster }) {
  if (thumbnails.length === 0) return { src: poster }
  const srcset = thumbnails.map(({ url, width_pixels: width }) => `${url} ${width}w`).join(", ")
  return { src: thumbnails[0].url, srcset, sizes: "16rem" }
}

/** A clip in a list moves while its card is pointed at or reached by keyboard, unless its reader prefers stillness. */
export function movesWhenChosen(card, picture, find) {
  const still = matchMedia("(prefers-reduced-motion: reduce)")
  const stop = () => picture.querySelector(".moving")?.remove()
  function move() {
    const moving = find()?.download?.animated_preview
    if (!moving || still.matches || picture.querySelector(".moving")) return
    const element = h("img", { src: moving.url, alt: "", class: "moving" })
    // Its link may have run out. The still picture says so, too, and brings fresh ones.
    element.addEventListener("error", () => element.remove())
    picture.append(element)
  }
  card.addEventListener("pointerenter", move)
  card.addEventListener("pointerleave", stop)
  card.addEventListener("focus", () => card.matches(":focus-visible") && move())
  card.addEventListener("blur", stop)
}
