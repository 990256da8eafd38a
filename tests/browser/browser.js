// A real Chromium that needs no installation: it comes as an npm package, with the libraries that a bare Linux lacks.
import { existsSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import chromium, { inflate } from "@sparticuz/chromium"
import { chromium as playwright } from "playwright-core"

const BIN = join(import.meta.dirname, "node_modules/@sparticuz/chromium/bin")

/** Start it. It is unpacked into the directory for temporary files, once. */
export async function launch() {
  const executablePath = await chromium.executablePath()
  const options = { executablePath, args: ["--headless=shell", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"] }
  try {
    return await playwright.launch(options)
  } catch (error) {
    if (!/error while loading shared libraries/.test(error.message)) throw error
    const libraries = join(tmpdir(), "al2023/lib")
    if (!existsSync(libraries)) await inflate(join(BIN, "al2023.tar.br"))
    return playwright.launch({ ...options, env: { ...process.env, LD_LIBRARY_PATH: libraries } })
  }
}
