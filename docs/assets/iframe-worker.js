// Browsers start no workers for pages that are opened from disk, and the search runs in a worker. On such pages run the
// worker's script in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.scope = new Promise((resolve) => {
        // After the load event: until then Firefox may replace the frame's document.
        this.frame.addEventListener("load", () => {
          const scope = this.frame.contentWindow
          scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
          const script = scope.document.createElement("script")
          script.src = new URL(url, location.href)
          script.onload = () => resolve(scope)
          scope.document.body.append(script)
        }, { once: true })
      })
      document.body.append(this.frame)
    }

    async postMessage(data) {
      const scope = await this.scope
      scope.dispatchEvent(new scope.MessageEvent("message", { data }))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
