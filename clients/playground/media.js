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
    const poster = h("img", { src: generation.download.poster_url, alt: "", loading: "lazy" })
    whenExpired(poster, generation.download, refresh)
    return poster
  }
  if (progress?.preview) return h("img", { src: `data:image/jpeg;base64,${progress.preview}`, alt: "" })
  return h("span", { class: ENDED.has(generation.status) ? "blank ended" : "blank" },
    generation.failure ? sayFailure(generation.failure) : sayStatus(generation.status))
}
