// A form for a model, made from the JSON Schema of its parameters: a new model needs no new page.
import { h } from "./dom.js"
import { sayError } from "./words.js"

const UPLOADS = "image/png,image/jpeg,image/webp,video/mp4"
const LONG_TEXT = 200
const MOST_SLIDER_STEPS = 100

/**
 * `values` are what the user had entered before. `upload(file)` gives the id of an uploaded file. `onchange` is called
 * after every change.
 */
export function modelForm(schema, values, { upload, onchange }) {
  const required = new Set(schema.required ?? [])
  const fields = Object.entries(schema.properties).map(([name, property]) =>
    field(name, property, required.has(name), values[name], { upload, onchange }))
  const main = fields.filter((one) => !isExtra(one))
  const extra = fields.filter(isExtra)
  const more = h("details", { class: "more" }, h("summary", {}, "More settings"), extra.map((one) => one.element))
  return {
    element: h("div", { class: "fields" }, main.map((one) => one.element), extra.length > 0 && more),

    /** What was entered. Untouched optional fields are left out: the model's defaults are the server's business. */
    values: () => Object.fromEntries(fields.map((one) => [one.name, one.value()]).filter(([, value]) => value !== undefined)),

    /** Whether everything that is needed is there; the first field that lacks it is shown. */
    complete() {
      const missing = fields.filter((one) => required.has(one.name) && one.value() === undefined)
      missing.forEach((one) => one.complain("This is needed."))
      missing[0]?.focus()
      return missing.length === 0
    },

    /** Mark the fields that a refusal names, as `parameters.<name>`. */
    complain(errors) {
      for (const error of errors) {
        fields.find((one) => error.field === `parameters.${one.name}`)?.complain(error.message)
      }
      if (extra.some((one) => errors.some((error) => error.field === `parameters.${one.name}`))) more.open = true
    },
  }
}

/** Settings that most people leave alone: optional texts, numbers without a default, lists with one entry. */
function isExtra({ property, isRequired }) {
  const oneChoice = property.enum?.length === 1
  return !isRequired && (property.type === "string" || property.default === undefined || oneChoice)
}

function field(name, property, isRequired, value, events) {
  const id = `field-${name}`
  const control = controlOf(id, property, value ?? property.default, events)
  const complaint = h("p", { class: "complaint", id: `${id}-complaint` })
  // Of an upload the description says how to make the id, which is done here.
  const hint = property.description && property.format !== "upload-id" && h("p", { class: "hint", id: `${id}-hint` }, property.description)
  control.input.setAttribute("aria-describedby", `${id}-hint ${id}-complaint`)
  const label = control.isGroup ? h("legend", {}, property.title ?? name) : h("label", { for: id }, property.title ?? name)
  const heading = control.output ? h("div", { class: "heading" }, label, control.output) : label
  const element = h(control.isGroup ? "fieldset" : "div", { class: control.output ? "field half" : "field" }, heading, control.element, hint, complaint)
  let touched = value !== undefined
  element.addEventListener("input", () => {
    touched = true
    complaint.textContent = ""
    control.input.removeAttribute("aria-invalid")
    events.onchange()
  })
  return {
    name, property, isRequired, element,
    value: () => (touched ? control.value() : undefined),
    focus: () => control.input.focus(),
    complain(message) {
      complaint.textContent = message
      control.input.setAttribute("aria-invalid", "true")
    },
  }
}

function controlOf(id, property, value, events) {
  if (property.format === "upload-id") return uploadControl(id, value, events)
  if (property.enum) return choiceControl(id, property, value)
  if (property.type === "boolean") return checkControl(id, value)
  if (property.type === "string") return textControl(id, property, value)
  const steps = (property.maximum - property.minimum) / (property.multipleOf ?? 1)
  return steps <= MOST_SLIDER_STEPS ? sliderControl(id, property, value) : numberControl(id, property, value)
}

function textControl(id, property, value) {
  const tag = (property.maxLength ?? LONG_TEXT) >= LONG_TEXT ? "textarea" : "input"
  const input = h(tag, {
    id, value: value ?? "", maxlength: property.maxLength, rows: tag === "textarea" ? 3 : null,
    placeholder: property.examples?.[0],
  })
  return { input, element: input, value: () => (input.value.trim() === "" ? undefined : input.value) }
}

function numberControl(id, property, value) {
  const { minimum: min, maximum: max, multipleOf: step } = property
  const input = h("input", { id, type: "number", inputmode: "numeric", min, max, step, value: value ?? "" })
  return { input, element: input, value: () => (input.value === "" ? undefined : Number(input.value)) }
}

function sliderControl(id, property, value) {
  const input = h("input", {
    id, type: "range", min: property.minimum, max: property.maximum, step: property.multipleOf ?? 1,
  })
  input.value = value ?? property.minimum
  const output = h("output", { for: id }, input.value)
  input.addEventListener("input", () => { output.textContent = input.value })
  return { input, element: input, output, value: () => Number(input.value) }
}

function checkControl(id, value) {
  const input = h("input", { id, type: "checkbox", checked: value === true })
  return { input, element: input, value: () => input.checked }
}

function choiceControl(id, property, value) {
  const options = property.enum.map((choice, index) => {
    const input = h("input", { type: "radio", name: id, id: `${id}-${index}`, checked: choice === value })
    return { choice, input, element: h("label", { class: "choice" }, input, h("span", {}, String(choice))) }
  })
  return {
    isGroup: true,
    input: options.find(({ input }) => input.checked)?.input ?? options[0].input,
    element: h("div", { class: "choices" }, options.map(({ element }) => element)),
    value: () => options.find(({ input }) => input.checked)?.choice,
  }
}

/** A file is uploaded as soon as it is chosen or dropped: until the order is written, it has long arrived. */
function uploadControl(id, value, { upload, onchange }) {
  let uploaded = value
  const input = h("input", { id, type: "file", accept: UPLOADS, class: "hidden" })
  const text = h("span", { class: "drop-text" }, value ? "Uploaded. Choose another file" : "Choose a file, or drop it here")
  const picture = h("span", { class: "drop-picture" })
  const element = h("div", {}, input, h("label", { for: id, class: "drop" }, picture, text))

  async function take(file) {
    uploaded = undefined
    text.textContent = `Uploading ${file.name} …`
    const kind = file.type.startsWith("video/") ? "video" : "img"
    picture.replaceChildren(h(kind, { src: URL.createObjectURL(file), alt: "" }))
    element.setAttribute("aria-busy", "true")
    try {
      uploaded = await upload(file)
      text.textContent = `${file.name} is uploaded`
    } catch (error) {
      text.textContent = sayError(error)
      picture.replaceChildren()
    } finally {
      element.removeAttribute("aria-busy")
      onchange()
    }
  }

  input.addEventListener("change", () => input.files[0] && take(input.files[0]))
  element.addEventListener("dragover", (event) => event.preventDefault())
  element.addEventListener("drop", (event) => {
    event.preventDefault()
    if (event.dataTransfer.files[0]) void take(event.dataTransfer.files[0])
  })
  return { input, element, value: () => uploaded }
}
