/* Runs the search's worker in a hidden frame where the page was opened by file://: browsers start no worker there. */
class FrameWorker extends EventTarget {
  constructor(url) {
    super()
    this.frame = document.createElement("iframe")
    this.frame.hidden = true
    document.body.appendChild(this.frame)
    const inner = this.frame.contentDocument
    inner.open()
    inner.write("<!doctype html><title>search</title><body></body>")
    inner.close()
    const scope = this.frame.contentWindow
    scope.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
    scope.importScripts = (...urls) => urls.reduce((before, one) => before.then(() => load(inner, one)), Promise.resolve())
    this.ready = load(inner, url)
  }
  postMessage(data) {
    this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
  }
  terminate() {
    this.frame.remove()
  }
}

function load(inner, url) {
  return new Promise((resolve, reject) => {
    const script = inner.createElement("script")
    script.src = url
    script.onload = resolve
    script.onerror = reject
    inner.body.appendChild(script)
  })
}

if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = FrameWorker
}
